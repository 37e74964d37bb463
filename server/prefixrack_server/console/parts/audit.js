// What was done to an adapter, and by which key.
import { getAll, getJson } from "../lib/api.js";
import { ago, moment } from "../lib/format.js";
import { wordsOf } from "../lib/history.js";
import { useLoad } from "../lib/hooks.js";
import { html } from "../lib/html.js";
import { Loading, Needs, ProblemNotice } from "./notice.js";

const NUM_LINES = 200;
const SCOPE = "tenant:admin";

// `marker` changes when something was done here.
export function Audit({ name, marker, me }) {
  return html`<section class="card" aria-labelledby="audit"><h2 id="audit">History</h2>
    ${me.can(SCOPE) ? html`<${History} name=${name} marker=${marker} />` : html`<${Needs} scope=${SCOPE} what="Who did what" />`}
  </section>`;
}

function History({ name, marker }) {
  const { data, problem, isLoading } = useLoad(() => loadHistory(name), [name, marker]);
  return html`<${ProblemNotice} problem=${problem} />
    ${!data && isLoading && html`<${Loading} what="Loading the history" />`}
    ${data?.length === 0 && html`<p class="muted">Nothing in the newest ${NUM_LINES} entries of the audit log.</p>`}
    <ol class="history">${data?.map((line) => html`<${Line} key=${line.id} line=${line} />`)}</ol>`;
}

function Line({ line }) {
  const { what, how } = wordsOf(line);
  return html`<li><b>${what}</b>${how && html` <span>${how}</span>`}
    <span class="muted small-text"><span title=${moment(line.at)}>${ago(line.at)}</span> by ${line.by}</span></li>`;
}

// The log names keys by their ids; those that are not revoked may have a name that says more.
async function loadHistory(name) {
  const [lines, keys] = await Promise.all([getJson(`admin/v1/audit?limit=${NUM_LINES}`), getAll("admin/v1/keys")]);
  const names = new Map(keys.map((key) => [key.id, key.name]));
  return lines.data.filter(({ target }) => isAbout(target, name)).map((line) => ({ ...line, by: names.get(line.key_id) ?? line.key_id }));
}

// Targets are name, name@7, name@production, name/…
const isAbout = (target, name) => target === name || [`${name}@`, `${name}/`, `${name}:`].some((start) => target.startsWith(start));
