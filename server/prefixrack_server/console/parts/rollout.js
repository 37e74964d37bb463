// Where the aliases of an adapter point, and how they move: promotion, canary, rollback.
import { useState } from "preact/hooks";
import { part, send } from "../lib/api.js";
import { percent } from "../lib/format.js";
import { useAction } from "../lib/hooks.js";
import { html } from "../lib/html.js";
import { AliasChip } from "./chips.js";
import { Confirm, Dialog } from "./dialog.js";
import { toast } from "./toast.js";

const SERVER_MOVES = "latest"; // the newest version: nobody else moves it
const MAX_SHARE = 50;

const pathOf = (name, alias) => `admin/v1/adapters/${part(name)}/aliases/${part(alias)}`;

export function Rollout({ name, aliases, versions, onChange }) {
  const [isOpen, setIsOpen] = useState(false);
  const done = (text) => {
    setIsOpen(false);
    toast(text);
    onChange();
  };
  return html`<section class="card stack" aria-labelledby="aliases">
    <div class="card-head"><h2 id="aliases">Aliases</h2><button class="button" onClick=${() => setIsOpen(true)}>Promote a version</button></div>
    <ul class="aliases">${aliases.map((alias) => html`<${Alias} key=${alias.alias} name=${name} alias=${alias} versions=${versions} onChange=${onChange} />`)}</ul>
    ${!aliases.some(({ alias }) => alias === "production") && html`<p class="muted small-text">There is no <code>production</code> yet: callers of the bare name get the newest version.</p>`}
    ${isOpen && html`<${PromoteDialog} name=${name} aliases=${aliases} versions=${versions} onClose=${() => setIsOpen(false)} onDone=${done} />`}
  </section>`;
}

function Alias({ name, alias, versions, onChange }) {
  const [open, setOpen] = useState(null);
  const rollback = useAction(() => send("POST", `${pathOf(name, alias.alias)}/rollback`, { headers: { "If-Match": alias.etag } }));
  const isOurs = alias.alias !== SERVER_MOVES;
  const canReturn = alias.canary || alias.shadow_version !== null || alias.previous_version !== null;
  const done = (text) => {
    setOpen(null);
    toast(text);
    onChange();
  };
  return html`<li class="alias">
    <div class="alias-line">
      <${AliasChip} alias=${alias.alias} />
      <span class="alias-target">version ${alias.version}</span>
      ${!isOurs && html`<span class="muted small-text">moves with every upload</span>`}
      ${isOurs && html`<span class="push buttons">
        ${versions.length > 1 && html`<button class="button small" aria-expanded=${open === "canary"} onClick=${() => setOpen(open === "canary" ? null : "canary")}>Canary</button>`}
        <button class="button small" disabled=${!canReturn} onClick=${() => setOpen("rollback")}>Roll back</button></span>`}
    </div>
    ${alias.canary && html`<p class="canary-line"><span class="canary-bar" aria-hidden="true"><span style=${{ width: `${100 * alias.canary.share}%` }}></span></span>
      ${percent(alias.canary.share, 0)} of the callers get version ${alias.canary.version}</p>`}
    ${alias.shadow_version !== null && html`<p class="muted small-text">Version ${alias.shadow_version} computes beside it, and answers nobody.</p>`}
    ${open === "canary" && html`<${Canary} name=${name} alias=${alias} versions=${versions} onDone=${done} />`}
    ${open === "rollback" && html`<${Confirm} title=${`Roll ${alias.alias} back?`} text=${rollbackText(alias)} verb="Roll back"
      action=${rollback} onClose=${() => setOpen(null)} onDone=${() => done(`${alias.alias} was rolled back`)} />`}
  </li>`;
}

function rollbackText(alias) {
  if (alias.canary) return `The canary ends: every caller gets version ${alias.version} again.`;
  if (alias.previous_version === null) return "The shadow ends.";
  return `Callers of ${alias.alias} get version ${alias.previous_version} again, instead of version ${alias.version}.`;
}

function Canary({ name, alias, versions, onDone }) {
  const others = versions.filter(({ version }) => version !== alias.version);
  const [version, setVersion] = useState(alias.canary?.version ?? others[0].version);
  const [share, setShare] = useState(Math.round((alias.canary?.share ?? 0.05) * 100));
  const action = useAction(() => {
    const canary = share > 0 ? { version: Number(version), share: share / 100 } : null;
    const body = { version: alias.version, shadow: alias.shadow_version, canary };
    return send("PUT", pathOf(name, alias.alias), { body, headers: { "If-Match": alias.etag } });
  });
  const submit = async (event) => {
    event.preventDefault();
    if (await action.run()) onDone(share > 0 ? `${share} % of ${alias.alias} go to version ${version}` : "The canary ended");
  };
  return html`<form class="canary" onSubmit=${submit}>
    <label class="field"><span class="field-name">Canary</span>
      <select class="select" value=${version} onChange=${(event) => setVersion(event.currentTarget.value)}>
        ${others.map((other) => html`<option value=${other.version}>version ${other.version}</option>`)}</select></label>
    <label class="field grow"><span class="field-name">Share of callers <output>${share} %</output></span>
      <input type="range" min="0" max=${MAX_SHARE} step="1" value=${share} onInput=${(event) => setShare(Number(event.currentTarget.value))} /></label>
    <button class="button primary" type="submit" disabled=${action.isBusy}>${share > 0 ? "Apply" : "End canary"}</button>
    ${action.problem && html`<p class="field-problem" role="alert">${action.problem.message}</p>`}
  </form>`;
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
