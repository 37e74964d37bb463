// Shares as bars, each with its name and number in text.
import { html } from "../lib/html.js";
import { percent } from "../lib/format.js";

// `entries`: [{label, value, text?, isFirst?}], `max` what fills a bar.
export function Bars({ entries, max = 1, label }) {
  return html`<ul class="bars" aria-label=${label}>
    ${entries.map(({ label: name, value, text, isFirst }) => html`<li class=${`bar ${isFirst ? "bar-first" : ""}`}>
      <span class="bar-label">${name}</span>
      <span class="bar-value">${text ?? percent(value)}</span>
      <span class="bar-track" aria-hidden="true">
        <span class="bar-fill" style=${{ width: `${Math.min(100, (100 * value) / (max || 1))}%` }}></span>
      </span>
    </li>`)}
  </ul>`;
}
