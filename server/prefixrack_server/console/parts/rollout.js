// Where the aliases of an adapter point, and how they move: promotion, canary, shadow, gates, rollback.
import { useState } from "preact/hooks";
import { ownerOf } from "../lib/adapter_ref.js";
import { getJson, send } from "../lib/api.js";
import { useFeed } from "../lib/feed.js";
import { count, percent } from "../lib/format.js";
import { useAction, useLoad } from "../lib/hooks.js";
import { html } from "../lib/html.js";
import { agreementOf } from "../lib/traffic.js";
import { CanaryForm, GatesForm, ShadowForm, pathOf } from "./alias_forms.js";
import { AliasChip } from "./chips.js";
import { Confirm, Dialog } from "./dialog.js";
import { Needs } from "./notice.js";
import { toast } from "./toast.js";

const SERVER_MOVES = "latest"; // the newest version: nobody else moves it
const PROMOTE = "alias:promote";
const FORMS = { canary: CanaryForm, shadow: ShadowForm, gates: GatesForm };

export function Rollout({ name, aliases, versions, onChange, me }) {
  const [isOpen, setIsOpen] = useState(false);
  const done = (text) => {
    setIsOpen(false);
    toast(text);
    onChange();
  };
  const mayPromote = me.can(PROMOTE);
  return html`<section class="card stack" aria-labelledby="aliases">
    <div class="card-head"><h2 id="aliases">Aliases</h2>${mayPromote && html`<button class="button" onClick=${() => setIsOpen(true)}>Promote a version</button>`}</div>
    <ul class="aliases">${aliases.map((alias) => html`<${Alias} key=${alias.alias} name=${name} alias=${alias} versions=${versions} onChange=${onChange} me=${me} />`)}</ul>
    ${!aliases.some(({ alias }) => alias === "production") && html`<p class="muted small-text">There is no <code>production</code> yet: callers of the bare name get the newest version.</p>`}
    ${!mayPromote && html`<${Needs} scope=${PROMOTE} what="To promote, roll back, or start a canary or a shadow" />`}
    ${isOpen && html`<${PromoteDialog} name=${name} aliases=${aliases} versions=${versions} onClose=${() => setIsOpen(false)} onDone=${done} />`}
  </section>`;
}

function Alias({ name, alias, versions, onChange, me }) {
  const [open, setOpen] = useState(null);
  const isOurs = alias.alias !== SERVER_MOVES;
  const gates = useLoad(() => (isOurs ? getJson(`${pathOf(name, alias.alias)}/gates`) : null), [name, alias]);
  const rollback = useAction(() => send("POST", `${pathOf(name, alias.alias)}/rollback`, { headers: { "If-Match": alias.etag } }));
  const done = (text) => {
    setOpen(null);
    toast(text);
    onChange();
  };
  const Form = FORMS[open];
  return html`<li class="alias">
    <div class="alias-line">
      <${AliasChip} alias=${alias.alias} />
      <span class="alias-target">version ${alias.version}</span>
      ${isOurs ? html`<${AliasButtons} alias=${alias} open=${open} onOpen=${setOpen} hasOthers=${versions.length > 1} me=${me} />` : html`<span class="muted small-text">moves with every upload</span>`}
    </div>
    <${Stand} owner=${ownerOf(name, me.tenant)} alias=${alias} gates=${gates.data?.require ?? []} />
    ${Form && html`<${Form} name=${name} alias=${alias} versions=${versions} gates=${gates.data?.require ?? []} onDone=${done} />`}
    ${open === "rollback" && html`<${Confirm} title=${`Roll ${alias.alias} back?`} text=${rollbackText(alias)} verb="Roll back"
      action=${rollback} onClose=${() => setOpen(null)} onDone=${() => done(`${alias.alias} was rolled back`)} />`}
  </li>`;
}

function AliasButtons({ alias, open, onOpen, hasOthers, me }) {
  const canReturn = alias.canary || alias.shadow_version !== null || alias.previous_version !== null;
  const toggle = (form, word) => html`<button class="button small" aria-expanded=${open === form} onClick=${() => onOpen(open === form ? null : form)}>${word}</button>`;
  return html`<span class="push buttons">
    ${me.can(PROMOTE) && hasOthers && [toggle("canary", "Canary"), toggle("shadow", "Shadow")]}
    ${me.can("tenant:admin") && toggle("gates", "Gates")}
    ${me.can(PROMOTE) && html`<button class="button small" disabled=${!canReturn} onClick=${() => onOpen("rollback")}>Roll back</button>`}
  </span>`;
}

// What is beside the version that answers.
function Stand({ owner, alias, gates }) {
  const { canary, shadow_version: shadow } = alias;
  return html`
    ${canary && html`<p class="canary-line"><span class="canary-bar" aria-hidden="true"><span style=${{ width: `${100 * canary.share}%` }}></span></span>
      ${percent(canary.share, 0)} of the callers get version ${canary.version}</p>`}
    ${shadow !== null && html`<p class="small-text">Version ${shadow} computes beside it, and answers nobody. <${Agreement} labels=${{ tenant: owner.tenant, adapter: owner.name, alias: alias.alias, version: String(shadow) }} /></p>`}
    ${gates.length > 0 && html`<p class="small-text">Protected: what answers here must claim ${gates.map((gate) => html`<code class="gate">${gate}</code> `)}</p>`}`;
}

function Agreement({ labels }) {
  const { same, total } = agreementOf(useFeed(), labels);
  if (!total) return html`<span class="muted">Nothing was compared yet.</span>`;
  return html`<b>${percent(same / total)}</b> of ${count(total)} outputs agree.`;
}

function rollbackText(alias) {
  if (alias.canary) return `The canary ends: every caller gets version ${alias.version} again.`;
  if (alias.previous_version === null) return "The shadow ends.";
  return `Callers of ${alias.alias} get version ${alias.previous_version} again, instead of version ${alias.version}.`;
}

function PromoteDialog({ name, aliases, versions, onClose, onDone }) {
  const [alias, setAlias] = useState("production");
  const [version, setVersion] = useState(String(versions[0].version));
  const [require, setRequire] = useState("");
  const current = aliases.find((known) => known.alias === alias);
  const action = useAction(() =>
    send("PUT", pathOf(name, alias), {
      body: { version: Number(version), require: require.split(",").map((text) => text.trim()).filter(Boolean) },
      headers: current ? { "If-Match": current.etag } : { "If-None-Match": "*" },
    }),
  );
  const submit = async (event) => {
    event.preventDefault();
    if (await action.run()) onDone(`${alias} answers with version ${version} now`);
  };
  return html`<${Dialog} title="Promote a version" onClose=${onClose}>
    <form class="stack" onSubmit=${submit}>
      <label class="field"><span class="field-name">Version</span>
        <select class="select wide" value=${version} onChange=${(event) => setVersion(event.currentTarget.value)}>
          ${versions.map((known) => html`<option value=${known.version}>version ${known.version}</option>`)}</select></label>
      <label class="field"><span class="field-name">Alias</span>
        <input type="text" value=${alias} required maxlength="63" spellcheck=${false} onInput=${(event) => setAlias(event.currentTarget.value.trim())} /></label>
      <label class="field"><span class="field-name">Required scores <span class="muted">optional</span></span>
        <input type="text" value=${require} placeholder="f1>=0.9, accuracy>=0.8" spellcheck=${false} onInput=${(event) => setRequire(event.currentTarget.value)} /></label>
      <p class="muted small-text">${promotionText(alias, current, version)}</p>
      ${action.problem && html`<p class="field-problem" role="alert">${action.problem.message}</p>`}
      <div class="dialog-buttons"><button class="button" type="button" onClick=${onClose}>Cancel</button>
        <button class="button primary" type="submit" disabled=${action.isBusy}>Promote</button></div>
    </form>
  <//>`;
}

function promotionText(alias, current, version) {
  if (!current) return `${alias || "The alias"} is new.`;
  if (String(current.version) === version) return `${alias} answers with version ${version} already.`;
  const ending = current.canary ? " Its canary ends." : "";
  return `${alias} moves from version ${current.version} to ${version}.${ending} Requests in flight finish where they are.`;
}
