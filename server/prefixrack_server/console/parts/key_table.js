// The keys of a tenant: revoking one, and making it a successor that may do the same.
import { useState } from "preact/hooks";
import { part, send } from "../lib/api.js";
import { ago, moment } from "../lib/format.js";
import { useAction } from "../lib/hooks.js";
import { html } from "../lib/html.js";
import { ScopeChips } from "./chips.js";
import { Confirm } from "./dialog.js";
import { Secret } from "./new_key.js";
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
  const [asked, setAsked] = useState(null);
  const [secret, setSecret] = useState(null);
  const path = `admin/v1/keys/${part(id)}`;
  const revoke = useAction(() => send("DELETE", `${path}?tenant=${part(tenant)}`));
  const rotate = useAction(async () => {
    const made = await (await send("POST", `${path}/rotate?tenant=${part(tenant)}`, { body: {} })).json();
    setSecret(made.secret);
    return made;
  });
  const close = () => {
    setAsked(null);
    setSecret(null);
  };
  const rotated = () => {
    close();
    onChange();
  };
  const revoked = () => {
    close();
    toast(`The key ${name ?? id} is refused from now on`);
    onChange();
  };
  const isOver = end && new Date(end) < new Date();
  return html`<tr><th scope="row">${name && html`<b class="key-name">${name}</b>`}<code>${id}</code>${isOwn && html` <span class="chip chip-accent">yours</span>`}
      ${adapters.length > 0 && html`<span class="muted small-text key-limits">only ${adapters.join(", ")}</span>`}</th>
    <td data-label="Scopes"><${ScopeChips} scopes=${scopes} /></td>
    <td data-label="Made"><span class="nowrap" title=${moment(made)}>${ago(made)}</span></td>
    <td data-label="Expires">${end ? html`<span class=${isOver ? "bad" : ""}>${moment(end)}</span>` : html`<span class="muted">never</span>`}</td>
    <td class="row-action"><span class="buttons">
        <button class="button small" aria-label=${`Rotate ${name ?? id}`} onClick=${() => setAsked("rotate")}>Rotate</button>
        <button class="button small" aria-label=${`Revoke ${name ?? id}`} onClick=${() => setAsked("revoke")}>Revoke</button></span>
      ${asked === "rotate" && !secret && html`<${Confirm} title="Rotate this key?" text=${`A second key is made that may do what ${name ?? id} may. Both hold, until you revoke this one.`}
        verb="Make the second key" isGentle action=${rotate} onClose=${close} onDone=${() => {}} />`}
      ${secret && html`<${Secret} secret=${secret} onClose=${rotated} />`}
      ${asked === "revoke" && html`<${Confirm} title="Revoke this key?" text=${`Requests with ${name ?? id} are refused from now on${isOwn ? ", those of this console too" : ""}. That cannot be taken back.`}
        verb="Revoke" action=${revoke} onClose=${close} onDone=${revoked} />`}</td></tr>`;
}
