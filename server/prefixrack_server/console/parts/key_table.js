// The keys of a tenant, and revoking one.
import { useState } from "preact/hooks";
import { part, send } from "../lib/api.js";
import { ago, moment } from "../lib/format.js";
import { useAction } from "../lib/hooks.js";
import { html } from "../lib/html.js";
import { ScopeChips } from "./chips.js";
import { Confirm } from "./dialog.js";
import { Empty } from "./notice.js";
import { toast } from "./toast.js";

export function KeyTable({ keys, tenant, me, onChange }) {
  if (!keys.length) return html`<${Empty} title="No keys yet" icon="keys">Make one for each program that asks: then one can be revoked without the others.<//>`;
  return html`<div class="card flush"><table class="table rows"><caption class="hidden">Keys of ${tenant}</caption>
    <thead><tr><th scope="col">Key</th><th scope="col">Scopes</th><th scope="col">Made</th><th scope="col">Expires</th><th scope="col"><span class="hidden">Actions</span></th></tr></thead>
    <tbody>${keys.map((key) => html`<${KeyRow} key=${key.id} info=${key} tenant=${tenant} isOwn=${key.id === me.key_id} onChange=${onChange} />`)}</tbody></table></div>`;
}

function KeyRow({ info, tenant, isOwn, onChange }) {
  const { id, name, scopes, adapters = [], created_at: made, expires_at: end } = info;
  const [isAsking, setIsAsking] = useState(false);
  const revoke = useAction(() => send("DELETE", `admin/v1/keys/${part(id)}?tenant=${part(tenant)}`));
  const revoked = () => {
    setIsAsking(false);
    toast(`The key ${name ?? id} is refused from now on`);
    onChange();
  };
  const isOver = end && new Date(end) < new Date();
  return html`<tr><th scope="row">${name && html`<b class="key-name">${name}</b>`}<code>${id}</code>${isOwn && html` <span class="chip chip-accent">yours</span>`}
      ${adapters.length > 0 && html`<span class="muted small-text key-limits">only ${adapters.join(", ")}</span>`}</th>
    <td data-label="Scopes"><${ScopeChips} scopes=${scopes} /></td>
    <td data-label="Made"><span class="nowrap" title=${moment(made)}>${ago(made)}</span></td>
    <td data-label="Expires">${end ? html`<span class=${isOver ? "bad" : ""}>${moment(end)}</span>` : html`<span class="muted">never</span>`}</td>
    <td class="row-action"><button class="button small" aria-label=${`Revoke ${name ?? id}`} onClick=${() => setIsAsking(true)}>Revoke</button>
      ${isAsking && html`<${Confirm} title="Revoke this key?" text=${`Requests with ${name ?? id} are refused from now on${isOwn ? ", those of this console too" : ""}. That cannot be taken back.`}
        verb="Revoke" action=${revoke} onClose=${() => setIsAsking(false)} onDone=${revoked} />`}</td></tr>`;
}
