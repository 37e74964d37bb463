// A new key: its name, what it may do, for how long; its secret, shown once.
import { useState } from "preact/hooks";
import { send } from "../lib/api.js";
import { useAction } from "../lib/hooks.js";
import { html } from "../lib/html.js";
import { CopyButton } from "./copy.js";
import { Dialog } from "./dialog.js";

const SCOPES = [
  ["predict", "Ask adapters"],
  ["adapters:read", "See adapters and versions"],
  ["adapters:write", "Upload and delete versions"],
  ["alias:promote", "Promote and roll back"],
  ["tenant:admin", "Everything in this tenant, keys too"],
];
const OF_OPERATORS = ["admin", "Everything in all tenants"]; // only who has it hands it on
const FIRST = ["predict", "adapters:read"];

export function NewKeyDialog({ tenant, me, onClose, onMade }) {
  const [scopes, setScopes] = useState(FIRST);
  const [texts, setTexts] = useState({ name: "", adapters: "", day: "" });
  const [secret, setSecret] = useState(null);
  const action = useAction(async () => {
    const body = bodyOf(texts, scopes);
    if (tenant !== me.tenant) body.tenant = tenant;
    const made = await (await send("POST", "admin/v1/keys", { body })).json();
    setSecret(made.secret);
    onMade();
  });
  const offered = me.can(OF_OPERATORS[0]) ? [...SCOPES, OF_OPERATORS] : SCOPES;
  const toggle = (scope) => setScopes(scopes.includes(scope) ? scopes.filter((other) => other !== scope) : [...scopes, scope]);
  const submit = (event) => {
    event.preventDefault();
    action.run();
  };
  const field = (name, word, options) => html`<label class="field"><span class="field-name">${word} <span class="muted">optional</span></span>
    <input value=${texts[name]} spellcheck=${false} onInput=${(event) => setTexts({ ...texts, [name]: event.currentTarget.value })} ...${options} /></label>`;
  if (secret) return html`<${Secret} secret=${secret} onClose=${onClose} />`;
  return html`<${Dialog} title=${`New key of ${tenant}`} onClose=${onClose}><form class="stack" onSubmit=${submit}>
    ${field("name", "Name", { type: "text", maxlength: 100, placeholder: "billing, nightly" })}
    <fieldset class="field"><legend class="field-name">It may</legend>
      ${offered.map(([scope, text]) => html`<label class="check"><input type="checkbox" checked=${scopes.includes(scope)} onChange=${() => toggle(scope)} />
        <span>${text} <code>${scope}</code></span></label>`)}</fieldset>
    ${field("adapters", "Only adapters named", { type: "text", placeholder: "team-a.*, intent" })}
    ${field("day", "Last day", { type: "date" })}
    ${action.problem && html`<p class="field-problem" role="alert">${action.problem.message}</p>`}
    <div class="dialog-buttons"><button class="button" type="button" onClick=${onClose}>Cancel</button>
      <button class="button primary" type="submit" disabled=${action.isBusy || !scopes.length}>Make key</button></div>
  </form><//>`;
}

function bodyOf({ name, adapters, day }, scopes) {
  const patterns = adapters.split(",").map((text) => text.trim()).filter(Boolean);
  return {
    scopes,
    ...(name.trim() && { name: name.trim() }),
    ...(patterns.length && { adapters: patterns }),
    ...(day && { expires_at: new Date(`${day}T23:59:59`).toISOString() }),
  };
}

export function Secret({ secret, onClose }) {
  return html`<${Dialog} title="Your new key" onClose=${onClose}>
    <p>Copy it now: it is shown this once, the server keeps only its hash.</p>
    <p class="secret"><code>${secret}</code></p>
    <div class="dialog-buttons"><${CopyButton} text=${secret} label="Copy key" what="Key copied" /><button class="button primary" onClick=${onClose}>Done</button></div>
  <//>`;
}
