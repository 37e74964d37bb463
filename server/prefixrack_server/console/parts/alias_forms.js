// What can be set beside an alias: a canary, a shadow, gates. Each form changes one and leaves the others.
import { useState } from "preact/hooks";
import { part, send } from "../lib/api.js";
import { useAction } from "../lib/hooks.js";
import { html } from "../lib/html.js";

const MAX_SHARE = 50;

export const pathOf = (name, alias) => `admin/v1/adapters/${part(name)}/aliases/${part(alias)}`;

// An alias is put as a whole: what a form does not name stays as it was.
function put(name, alias, change) {
  const { version, canary, shadow_version: shadow } = alias;
  const stand = { version, shadow, canary: canary && { version: canary.version, share: canary.share } };
  return send("PUT", pathOf(name, alias.alias), { body: { ...stand, ...change }, headers: { "If-Match": alias.etag } });
}

const othersOf = (alias, versions) => versions.map(({ version }) => version).filter((version) => version !== alias.version);

export function CanaryForm({ name, alias, versions, onDone }) {
  const others = othersOf(alias, versions);
  const [version, setVersion] = useState(alias.canary?.version ?? others[0]);
  const [share, setShare] = useState(Math.round((alias.canary?.share ?? 0.05) * 100));
  const action = useAction(() => put(name, alias, { canary: share > 0 ? { version, share: share / 100 } : null }));
  const text = share > 0 ? `${share} % of ${alias.alias} go to version ${version}` : "The canary ended";
  return html`<${Form} action=${action} onDone=${() => onDone(text)}>
    <${VersionField} word="Canary" versions=${others} value=${version} onValue=${setVersion} />
    <label class="field grow"><span class="field-name">Share of callers <output>${share} %</output></span>
      <input type="range" min="0" max=${MAX_SHARE} step="1" value=${share} onInput=${(event) => setShare(Number(event.currentTarget.value))} /></label>
    <button class="button primary" type="submit" disabled=${action.isBusy}>${share > 0 ? "Apply" : "End canary"}</button>
  <//>`;
}

export function ShadowForm({ name, alias, versions, onDone }) {
  const others = othersOf(alias, versions);
  const [version, setVersion] = useState(alias.shadow_version ?? others[0]);
  const action = useAction((shadow) => put(name, alias, { shadow }));
  const stop = async () => {
    if (await action.run(null)) onDone("The shadow ended");
  };
  return html`<${Form} action=${action} values=${[version]} onDone=${() => onDone(`Version ${version} computes what ${alias.alias} is asked`)}>
    <${VersionField} word="Shadow" versions=${others} value=${version} onValue=${setVersion} />
    <p class="muted small-text grow">It computes what <code>${alias.alias}</code> is asked. Its answers are compared, and dropped.</p>
    ${alias.shadow_version !== null && html`<button class="button" type="button" disabled=${action.isBusy} onClick=${stop}>Stop shadow</button>`}
    <button class="button primary" type="submit" disabled=${action.isBusy || version === alias.shadow_version}>Start shadow</button>
  <//>`;
}

export function GatesForm({ name, alias, gates, onDone }) {
  const [text, setText] = useState(gates.join("\n"));
  const require = text.split("\n").map((line) => line.trim()).filter(Boolean);
  const action = useAction(() => send("PUT", `${pathOf(name, alias.alias)}/gates`, { body: { require } }));
  const done = () => onDone(require.length ? `${alias.alias} is protected` : `${alias.alias} is no longer protected`);
  return html`<${Form} action=${action} onDone=${done}>
    <label class="field grow"><span class="field-name">What each version must claim <span class="muted">one a line, none to lift the protection</span></span>
      <textarea rows=${Math.max(2, require.length + 1)} value=${text} spellcheck=${false} placeholder="accuracy>=0.9" onInput=${(event) => setText(event.currentTarget.value)}></textarea></label>
    <button class="button primary" type="submit" disabled=${action.isBusy}>Save gates</button>
  <//>`;
}

function Form({ action, values = [], onDone, children }) {
  const submit = async (event) => {
    event.preventDefault();
    if (await action.run(...values)) onDone();
  };
  return html`<form class="alias-form" onSubmit=${submit}>${children}
    ${action.problem && html`<p class="field-problem" role="alert">${action.problem.message}</p>`}</form>`;
}

function VersionField({ word, versions, value, onValue }) {
  return html`<label class="field"><span class="field-name">${word}</span>
    <select class="select" value=${value} onChange=${(event) => onValue(Number(event.currentTarget.value))}>
      ${versions.map((version) => html`<option value=${version}>version ${version}</option>`)}</select></label>`;
}
