// What was done to an adapter, and by which key.
import { useState } from "preact/hooks";
import { ownerOf } from "../lib/adapter_ref.js";
import { getJson, part } from "../lib/api.js";
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
    ${me.can(SCOPE) ? html`<${History} owner=${ownerOf(name, me.tenant)} marker=${marker} />` : html`<${Needs} scope=${SCOPE} what="Who did what" />`}
  </section>`;
}

function History({ owner, marker }) {
  const [limit, setLimit] = useState(FEW);
  const { data, problem, isLoading } = useLoad(() => loadHistory(owner, limit), [owner.tenant, owner.name, limit, marker]);
  return html`<${ProblemNotice} problem=${problem} />
    ${!data && isLoading && html`<${Loading} what="Loading the history" />`}
    <ol class="history">${data?.lines.map((line) => html`<${Line} key=${line.id} line=${line} />`)}</ol>
    ${data?.hasMore && limit === FEW && html`<button class="link" onClick=${() => setLimit(MOST)}>Earlier ones</button>`}`;
}

function Line({ line }) {
  const { what, how } = wordsOf(line);
  return html`<li><b>${what}</b>${how && html` <span>${how}</span>`}
    <span class="muted small-text"><span title=${moment(line.at)}>${ago(line.at)}</span> by <${Key} id=${line.key_id} name=${line.key_name} /></span></li>`;
}

// A key and its successor have one name: the id tells them apart. What has none may be no key: a token, the server itself.
function Key({ id, name }) {
  return name ? html`<span title=${`key ${id}`}>${name}</span>` : html`<code>${id}</code>`;
}

async function loadHistory({ tenant, name }, limit) {
  const { data, next_cursor: next } = await getJson(`admin/v1/audit?tenant=${part(tenant)}&adapter=${part(name)}&limit=${limit}`);
  return { lines: data, hasMore: next !== null };
}
