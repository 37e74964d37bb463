// API keys of the tenant, and what the tenant may take.
import { useState } from "preact/hooks";
import { getAll, part, send } from "../lib/api.js";
import { ago, moment } from "../lib/format.js";
import { useAction, useLoad } from "../lib/hooks.js";
import { html } from "../lib/html.js";
import { CopyButton } from "../parts/copy.js";
import { Confirm, Dialog } from "../parts/dialog.js";
import { Icon } from "../parts/icons.js";
import { Empty, Loading, ProblemNotice } from "../parts/notice.js";
import { Quotas } from "../parts/quotas.js";
import { toast } from "../parts/toast.js";

const SCOPES = [
  ["predict", "Ask adapters"],
  ["adapters:read", "See adapters and versions"],
  ["adapters:write", "Upload and delete versions"],
  ["alias:promote", "Promote and roll back"],
  ["tenant:admin", "Everything in this tenant, keys too"],
];
const FIRST = ["predict", "adapters:read"];

export function KeysPage({ server }) {
  const keys = useLoad(() => getAll("admin/v1/keys"), []);
  const [isOpen, setIsOpen] = useState(false);
  const isForbidden = keys.problem?.code === "forbidden";
  return html`<div class="page-head"><div><h1>Keys and quotas</h1><p class="lead">Who may ask, and for how much.</p></div>
      ${keys.data && html`<button class="button primary" onClick=${() => setIsOpen(true)}><${Icon} name="plus" />New key</button>`}</div>
    ${!server.hasKey && html`<div class="notice"><${Icon} name="keys" /><div><p class="notice-text">This server asks for no keys: it answers everybody on this machine.</p></div></div>`}
    ${isForbidden && html`<${Empty} title="Your key cannot see keys" icon="keys">This needs a key with the scope <code>tenant:admin</code>. Yours works on the other pages.<//>`}
    ${!isForbidden && html`<${ProblemNotice} problem=${keys.problem} onRetry=${keys.reload} />`}
    ${!keys.data && keys.isLoading && html`<${Loading} what="Loading keys" />`}
    ${keys.data && html`<${KeyTable} keys=${keys.data} onChange=${keys.reload} />`}
    ${keys.data && server.hasTenants && server.tenant && html`<${Quotas} own=${server.tenant} server=${server} />`}
    ${isOpen && html`<${NewKeyDialog} onClose=${() => setIsOpen(false)} onMade=${keys.reload} />`}`;
}

function KeyTable({ keys, onChange }) {
  if (!keys.length) return html`<${Empty} title="No keys yet" icon="keys">Make one for each program that asks: then one can be revoked without the others.<//>`;
  return html`<div class="card flush"><table class="table rows"><caption class="hidden">Keys</caption>
    <thead><tr><th scope="col">Key</th><th scope="col">Scopes</th><th scope="col">Made</th><th scope="col">Expires</th><th scope="col"><span class="hidden">Actions</span></th></tr></thead>
    <tbody>${keys.map((key) => html`<${KeyRow} key=${key.id} info=${key} onChange=${onChange} />`)}</tbody></table></div>`;
}

function KeyRow({ info, onChange }) {
  const [isAsking, setIsAsking] = useState(false);
  const revoke = useAction(() => send("DELETE", `admin/v1/keys/${part(info.id)}`));
  const revoked = () => {
    setIsAsking(false);
    toast(`The key ${info.id} is refused from now on`);
    onChange();
  };
  const isOver = info.expires_at && new Date(info.expires_at) < new Date();
  return html`<tr><th scope="row"><code>${info.id}</code>${info.adapters?.length > 0 && html`<span class="muted small-text key-limits">only ${info.adapters.join(", ")}</span>`}</th>
    <td data-label="Scopes"><span class="chips">${info.scopes.map((scope) => html`<span class=${`chip ${scope.includes("admin") ? "chip-accent" : ""}`}>${scope}</span>`)}</span></td>
    <td data-label="Made"><span title=${moment(info.created_at)}>${ago(info.created_at)}</span></td>
    <td data-label="Expires">${info.expires_at ? html`<span class=${isOver ? "bad" : ""}>${moment(info.expires_at)}</span>` : html`<span class="muted">never</span>`}</td>
    <td class="row-action"><button class="button small" aria-label=${`Revoke ${info.id}`} onClick=${() => setIsAsking(true)}>Revoke</button>
      ${isAsking && html`<${Confirm} title="Revoke this key?" text=${`Requests with ${info.id} are refused from now on. That cannot be taken back.`}
        verb="Revoke" action=${revoke} onClose=${() => setIsAsking(false)} onDone=${revoked} />`}</td></tr>`;
}

function NewKeyDialog({ onClose, onMade }) {
  const [scopes, setScopes] = useState(FIRST);
  const [day, setDay] = useState("");
  const [secret, setSecret] = useState(null);
  const action = useAction(async () => {
    const expiry = day ? { expires_at: new Date(`${day}T23:59:59`).toISOString() } : {};
    const made = await (await send("POST", "admin/v1/keys", { body: { scopes, ...expiry } })).json();
    setSecret(made.secret);
    onMade();
  });
  const toggle = (scope) => setScopes(scopes.includes(scope) ? scopes.filter((other) => other !== scope) : [...scopes, scope]);
  const submit = (event) => {
    event.preventDefault();
    action.run();
  };
  if (secret) return html`<${Secret} secret=${secret} onClose=${onClose} />`;
  return html`<${Dialog} title="New key" onClose=${onClose}><form class="stack" onSubmit=${submit}>
    <fieldset class="field"><legend class="field-name">It may</legend>
      ${SCOPES.map(([scope, text]) => html`<label class="check"><input type="checkbox" checked=${scopes.includes(scope)} onChange=${() => toggle(scope)} />
        <span>${text} <code>${scope}</code></span></label>`)}</fieldset>
    <label class="field"><span class="field-name">Last day <span class="muted">optional</span></span>
      <input type="date" value=${day} onInput=${(event) => setDay(event.currentTarget.value)} /></label>
    ${action.problem && html`<p class="field-problem" role="alert">${action.problem.message}</p>`}
    <div class="dialog-buttons"><button class="button" type="button" onClick=${onClose}>Cancel</button>
      <button class="button primary" type="submit" disabled=${action.isBusy || !scopes.length}>Make key</button></div>
  </form><//>`;
}

function Secret({ secret, onClose }) {
  return html`<${Dialog} title="Your new key" onClose=${onClose}>
    <p>Copy it now: it is shown this once, the server keeps only its hash.</p>
    <p class="secret"><code>${secret}</code></p>
    <div class="dialog-buttons"><${CopyButton} text=${secret} label="Copy key" what="Key copied" /><button class="button primary" onClick=${onClose}>Done</button></div>
  <//>`;
}
