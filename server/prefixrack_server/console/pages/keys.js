// Your own key, the keys of a tenant, and what the tenant may take.
import { useState } from "preact/hooks";
import { getAll, part } from "../lib/api.js";
import { moment, until } from "../lib/format.js";
import { useLoad } from "../lib/hooks.js";
import { html } from "../lib/html.js";
import { nameOfKey } from "../lib/identity.js";
import { ScopeChips } from "../parts/chips.js";
import { Icon } from "../parts/icons.js";
import { KeyTable } from "../parts/key_table.js";
import { NewKeyDialog } from "../parts/new_key.js";
import { Loading, Needs, ProblemNotice } from "../parts/notice.js";
import { Limits, Quotas } from "../parts/quotas.js";
import { TenantSelect } from "../parts/tenant_select.js";

const SCOPE = "tenant:admin";

export function KeysPage({ me }) {
  const [tenant, setTenant] = useState(me.tenant);
  const [isOpen, setIsOpen] = useState(false);
  const [numMade, setNumMade] = useState(0);
  return html`<div class="page-head"><div><h1>Keys and quotas</h1><p class="lead">Who may ask, and for how much.</p></div>
      ${me.can(SCOPE) && html`<button class="button primary" onClick=${() => setIsOpen(true)}><${Icon} name="plus" />New key</button>`}</div>
    ${me.needsKey
      ? html`<${OwnKey} me=${me} />`
      : html`<div class="notice"><${Icon} name="keys" /><div><p class="notice-text">This server asks for no keys: it answers everybody on this machine.</p></div></div>`}
    ${me.can(SCOPE) && html`
      <${TenantSelect} tenant=${tenant} onTenant=${setTenant} me=${me} />
      <${Keys} key=${tenant} tenant=${tenant} marker=${numMade} me=${me} />
      <${Quotas} key=${`quotas of ${tenant}`} tenant=${tenant} me=${me} />`}
    ${isOpen && html`<${NewKeyDialog} tenant=${tenant} me=${me} onClose=${() => setIsOpen(false)} onMade=${() => setNumMade(numMade + 1)} />`}`;
}

function OwnKey({ me }) {
  const { scopes, expires_at: end, adapter_patterns: patterns } = me;
  return html`<section class="card own-key" aria-labelledby="own-key">
    <div><h2 id="own-key">${me.authenticated_by === "token" ? "Your token" : "Your key"}</h2>
      <p class="own-name">${nameOfKey(me)}</p>
      <p class="muted small-text">${me.key_name ? html`<code>${me.key_id}</code>, ` : ""}tenant <b>${me.tenant}</b></p></div>
    <dl class="facts">
      <div><dt>May</dt><dd><${ScopeChips} scopes=${scopes} /></dd></div>
      <div><dt>Adapters</dt><dd>${patterns.map((some) => some.join(", ")).join(" and ") || "all names"}</dd></div>
      <div><dt>Expires</dt><dd>${end ? html`<span title=${moment(end)}>${until(end)}</span>` : "never"}</dd></div></dl>
    ${!me.can(SCOPE) && html`<div class="own-limits"><h3>Quotas of ${me.tenant}</h3><${Limits} info=${me} />
      <${Needs} scope=${SCOPE} what="To see and make other keys" /></div>`}
  </section>`;
}

function Keys({ tenant, marker, me }) {
  const keys = useLoad(() => getAll(`admin/v1/keys?tenant=${part(tenant)}`), [tenant, marker]);
  return html`<${ProblemNotice} problem=${keys.problem} onRetry=${keys.reload} />
    ${!keys.data && keys.isLoading && html`<${Loading} what="Loading keys" />`}
    ${keys.data && html`<${KeyTable} keys=${keys.data} tenant=${tenant} me=${me} onChange=${keys.reload} />`}`;
}
