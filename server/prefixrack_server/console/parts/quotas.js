// What a tenant may take, what it has, and what it had computed by day.
import { useState } from "preact/hooks";
import { getAll, getJson, part } from "../lib/api.js";
import { bytes, count } from "../lib/format.js";
import { useLoad } from "../lib/hooks.js";
import { html } from "../lib/html.js";
import { Bars } from "./bars.js";
import { Loading, Needs, ProblemNotice } from "./notice.js";
import { QuotaDialog } from "./quota_dialog.js";
import { toast } from "./toast.js";

const NUM_DAYS = 14;
const SCOPE = "admin"; // a tenant does not set its own
const LIMITS = [
  ["Requests a minute", "requests_per_minute", count],
  ["Tokens a minute", "tokens_per_minute", count],
  ["Adapters", "max_adapters", count, "num_adapters"],
  ["Storage", "max_bytes", bytes, "num_bytes"],
];

export function Quotas({ tenant, me }) {
  const [isOpen, setIsOpen] = useState(false);
  const { data, problem, isLoading, reload } = useLoad(() => getJson(`admin/v1/tenants/${part(tenant)}`), [tenant]);
  const done = () => {
    setIsOpen(false);
    toast(`The quotas of ${tenant} were changed`);
    reload();
  };
  return html`<div class="board">
    <section class="card panel" aria-labelledby="quotas">
      <div class="card-head"><h2 id="quotas">Quotas of ${tenant}</h2>
        ${data && me.can(SCOPE) && html`<button class="button small" onClick=${() => setIsOpen(true)}>Edit quotas</button>`}</div>
      <${ProblemNotice} problem=${problem} onRetry=${reload} />
      ${!data && isLoading && html`<${Loading} what="Loading quotas" />`}
      ${data && html`<${Limits} info=${data} />`}
      ${!me.can(SCOPE) && html`<${Needs} scope=${SCOPE} what="To change them" />`}</section>
    <${Usage} tenant=${tenant} />
    ${isOpen && html`<${QuotaDialog} info=${data} onClose=${() => setIsOpen(false)} onDone=${done} />`}
  </div>`;
}

export function Limits({ info }) {
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
