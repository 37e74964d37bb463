// What was done to an adapter, and by which key.
import { useState } from "preact/hooks";
import { ownerOf } from "../lib/adapter_ref.js";
import { getAll, getJson, part } from "../lib/api.js";
import { ago, moment } from "../lib/format.js";
import { wordsOf } from "../lib/history.js";
import { useLoad } from "../lib/hooks.js";
import { html } from "../lib/html.js";
import { Loading, Needs, ProblemNotice } from "./notice.js";

const FEW = 20;
const MOST = 1000; // what the API gives in one page
const SCOPE = "tenant:admin";

// `marker` changes when something was done here.
export function Audit({ name, marker, me }) {
  return html`<section class="card" aria-labelledby="audit"><h2 id="audit">History</h2>
    ${me.can(SCOPE) ? html`<${History} owner=${ownerOf(name, me.tenant)} marker=${marker} me=${me} />` : html`<${Needs} scope=${SCOPE} what="Who did what" />`}
  </section>`;
}

function History({ owner, marker, me }) {
  const [limit, setLimit] = useState(FEW);
  const { data, problem, isLoading } = useLoad(() => loadHistory(owner, limit, me), [owner.tenant, owner.name, limit, marker]);
  return html`<${ProblemNotice} problem=${problem} />
    ${!data && isLoading && html`<${Loading} what="Loading the history" />`}
    <ol class="history">${data?.lines.map((line) => html`<${Line} key=${line.id} line=${line} />`)}</ol>
    ${data?.hasMore && limit === FEW && html`<button class="link" onClick=${() => setLimit(MOST)}>Earlier ones</button>`}`;
}

function Line({ line }) {
  const { what, how } = wordsOf(line);
  return html`<li><b>${what}</b>${how && html` <span>${how}</span>`}
    <span class="muted small-text"><span title=${moment(line.at)}>${ago(line.at)}</span> by ${line.by}</span></li>`;
}

// The log names keys by their ids; those that are not revoked may have a name that says more. An operator's key may be of
// another tenant than the adapter.
async function loadHistory({ tenant, name }, limit, me) {
  const of = `tenant=${part(tenant)}`;
  const [{ data, next_cursor: next }, keys] = await Promise.all([
    getJson(`admin/v1/audit?${of}&adapter=${part(name)}&limit=${limit}`),
    getAll(`admin/v1/keys?${of}`),
  ]);
  const names = new Map([[me.key_id, me.key_name], ...keys.map((key) => [key.id, key.name])]);
  return { lines: data.map((line) => ({ ...line, by: names.get(line.key_id) ?? line.key_id })), hasMore: next !== null };
}
