// What a tenant may take, what it has, and what it had computed by day.
import { useState } from "preact/hooks";
import { getAll, getJson, part } from "../lib/api.js";
import { bytes, count } from "../lib/format.js";
import { useLoad } from "../lib/hooks.js";
import { html } from "../lib/html.js";
import { Bars } from "./bars.js";
import { Loading, ProblemNotice } from "./notice.js";

const NUM_DAYS = 14;
const LIMITS = [
  ["Requests a minute", "requests_per_minute", count],
  ["Tokens a minute", "tokens_per_minute", count],
  ["Adapters", "max_adapters", count, "num_adapters"],
  ["Storage", "max_bytes", bytes, "num_bytes"],
];

export function Quotas({ own, server }) {
  const [tenant, setTenant] = useState(own);
  const others = useLoad(listTenants, []);
  const { data, problem, isLoading, reload } = useLoad(() => getJson(`admin/v1/tenants/${part(tenant)}`), [tenant]);
  return html`<div class="board">
    <section class="card panel" aria-labelledby="quotas"><h2 id="quotas">Quotas of ${tenant}</h2>
      ${others.data?.length > 1 && html`<label class="field"><span class="field-name">Tenant</span>
        <select class="select wide" value=${tenant} onChange=${(event) => setTenant(event.currentTarget.value)}>
          ${others.data.map(({ name }) => html`<option value=${name}>${name}</option>`)}</select></label>`}
      <${ProblemNotice} problem=${problem} onRetry=${reload} />
      ${!data && isLoading && html`<${Loading} what="Loading quotas" />`}
      ${data && html`<${Limits} info=${data} />`}</section>
    ${server.hasUsage && html`<${Usage} tenant=${tenant} />`}
  </div>`;
}

// All tenants, for who may see them; nobody else's for the admin of one.
async function listTenants() {
  try {
    return await getAll("admin/v1/tenants");
  } catch (problem) {
    if (problem.status === 403) return [];
    throw problem;
  }
}

function Limits({ info }) {
  const { quotas, stored } = info;
  return html`<dl class="facts">${LIMITS.map(([word, name, format, field]) => {
      const limit = quotas[name] === null ? "no limit" : format(quotas[name]);
      const has = field && stored ? `${format(stored[field])}${quotas[name] === null ? ", " : " of "}` : "";
      return html`<div><dt>${word}</dt><dd>${has}${limit}</dd></div>`;
    })}
    <div><dt>Weight on a busy server</dt><dd>${info.weight}</dd></div></dl>`;
}

function Usage({ tenant }) {
  const since = new Date(Date.now() - NUM_DAYS * 86_400_000).toISOString().slice(0, 10);
  const { data, problem, isLoading } = useLoad(() => getAll(`admin/v1/usage?since=${since}&tenant=${part(tenant)}`), [tenant]);
  const days = new Map();
  for (const { day, tokens } of data ?? []) days.set(day, (days.get(day) ?? 0) + tokens);
  const entries = [...days].sort(([a], [b]) => (a < b ? 1 : -1)).map(([label, value]) => ({ label, value, text: `${count(value)} tokens` }));
  return html`<section class="card panel" aria-labelledby="usage"><h2 id="usage">Usage</h2><p class="muted small-text">Tokens by day (UTC), the last ${NUM_DAYS} days</p>
    <${ProblemNotice} problem=${problem} />
    ${!data && isLoading && html`<${Loading} what="Loading usage" />`}
    ${data && (entries.length ? html`<${Bars} entries=${entries} max=${Math.max(...entries.map(({ value }) => value))} label="Tokens by day" />` : html`<p class="muted quiet">Nothing was computed yet.</p>`)}</section>`;
}
