// Whose things a page shows: for who administers all tenants, where there are several.
import { getAll } from "../lib/api.js";
import { useLoad } from "../lib/hooks.js";
import { html } from "../lib/html.js";
import { ProblemNotice } from "./notice.js";

const SCOPE = "admin";

export function TenantSelect({ tenant, onTenant, me }) {
  return me.can(SCOPE) ? html`<${Choice} tenant=${tenant} onTenant=${onTenant} />` : null;
}

function Choice({ tenant, onTenant }) {
  const { data, problem } = useLoad(() => getAll("admin/v1/tenants"), []);
  if (problem) return html`<${ProblemNotice} problem=${problem} />`;
  if (!data || data.length < 2) return null;
  return html`<label class="field tenant-field"><span class="field-name">Tenant</span>
    <select class="select" value=${tenant} onChange=${(event) => onTenant(event.currentTarget.value)}>
      ${data.map(({ name, disabled_at: disabled }) => html`<option value=${name}>${name}${disabled ? " (disabled)" : ""}</option>`)}</select></label>`;
}
