// What stands where there is nothing to show: loading, empty, refused.
import { html } from "../lib/html.js";
import { Icon } from "./icons.js";

const HINTS = {
  forbidden: "Sign in with a key that has this scope, or ask an administrator for one.",
  unreachable: "The console tries again when you do.",
};

export function ProblemNotice({ problem, onRetry }) {
  if (!problem) return null;
  const further = problem.errors?.filter(({ message }) => !problem.message.includes(message)) ?? [];
  return html`<div class="notice notice-bad" role="alert">
    <${Icon} name="warning" />
    <div>
      <p class="notice-text">${problem.message}</p>
      ${further.length > 0 && html`<ul>${further.map(({ adapter, message }) => html`<li>${adapter && html`<b>${adapter}: </b>`}${message}</li>`)}</ul>`}
      <p class="notice-more">
        ${problem.code && html`<code>${problem.code}</code>`}
        ${problem.requestId && html`<span> request ${problem.requestId}</span>`}
        ${HINTS[problem.code] && html`<span> ${HINTS[problem.code]}</span>`}
      </p>
    </div>
    ${onRetry && html`<button class="button small" onClick=${onRetry}>Try again</button>`}
  </div>`;
}

// Stands where a control would be that this key may not use.
export const Needs = ({ scope, what }) => html`<p class="muted small-text">${what} needs a key with the scope <code>${scope}</code>.</p>`;

export function Empty({ title, children, icon = "adapters" }) {
  return html`<div class="empty">
    <span class="empty-icon"><${Icon} name=${icon} /></span>
    <p class="empty-title">${title}</p>
    <div class="empty-text">${children}</div>
  </div>`;
}

export function Loading({ what = "Loading" }) {
  return html`<div class="loading" role="status"><span class="spinner" aria-hidden="true"></span>${what}…</div>`;
}
