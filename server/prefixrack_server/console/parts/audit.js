// What was done to an adapter, and by which key.
import { getJson } from "../lib/api.js";
import { ago, moment } from "../lib/format.js";
import { useLoad } from "../lib/hooks.js";
import { html } from "../lib/html.js";
import { Loading, ProblemNotice } from "./notice.js";

const NUM_LINES = 200;

// `marker` changes when something was done here.
export function Audit({ name, marker }) {
  const { data, problem, isLoading } = useLoad(() => getJson(`admin/v1/audit?limit=${NUM_LINES}`), [name, marker]);
  const lines = data?.data.filter(({ target }) => isAbout(target, name)) ?? [];
  return html`<section class="card" aria-labelledby="audit"><h2 id="audit">History</h2>
    ${problem?.code === "forbidden" ? html`<p class="muted">Shown to keys with the scope <code>tenant:admin</code>.</p>` : html`<${ProblemNotice} problem=${problem} />`}
    ${!data && isLoading && html`<${Loading} what="Loading the history" />`}
    ${data && !lines.length && html`<p class="muted">Nothing in the newest ${NUM_LINES} entries of the audit log.</p>`}
    <ol class="history">${lines.map(({ id, at, action, key_id: key, target }) => html`<li key=${id}>
      <b>${action}</b> <code>${target}</code><span class="muted small-text"><span title=${moment(at)}>${ago(at)}</span> by ${key}</span></li>`)}</ol>
  </section>`;
}

// Targets are name, name@7, name@production, name/…
const isAbout = (target, name) => target === name || [`${name}@`, `${name}/`, `${name}:`].some((start) => target.startsWith(start));
