// A tenant's quotas and weight as fields to fill in. What was not touched is not sent.
import { useState } from "preact/hooks";
import { part, send } from "../lib/api.js";
import { useAction } from "../lib/hooks.js";
import { html } from "../lib/html.js";
import { Dialog } from "./dialog.js";

const MIB = 1024 * 1024;
// [field, words, unit]
const FIELDS = [
  ["requests_per_minute", "Requests a minute", 1],
  ["tokens_per_minute", "Tokens a minute", 1],
  ["max_adapters", "Adapters", 1],
  ["max_bytes", "Storage in MiB", MIB],
];

export function QuotaDialog({ info, onClose, onDone }) {
  const before = textsOf(info);
  const [texts, setTexts] = useState(before);
  const change = changeOf(before, texts);
  const action = useAction(() => send("PATCH", `admin/v1/tenants/${part(info.name)}`, { body: change }));
  const submit = async (event) => {
    event.preventDefault();
    if (await action.run()) onDone();
  };
  const input = (name, options) => html`<input type="number" value=${texts[name]}
    onInput=${(event) => setTexts({ ...texts, [name]: event.currentTarget.value })} ...${options} />`;
  return html`<${Dialog} title=${`Quotas of ${info.name}`} onClose=${onClose}><form class="stack" onSubmit=${submit}>
    <p class="muted small-text">An empty field has no limit. What is changed holds for the next request.</p>
    ${FIELDS.map(([name, word, unit]) => html`<label class="field"><span class="field-name">${word}</span>
      ${input(name, { min: 0, step: unit === 1 ? 1 : "any", placeholder: "no limit" })}</label>`)}
    <label class="field"><span class="field-name">Weight on a busy server <span class="muted">against that of others</span></span>
      ${input("weight", { min: 0.001, max: 1000, step: "any", required: true })}</label>
    ${action.problem && html`<p class="field-problem" role="alert">${action.problem.message}</p>`}
    <div class="dialog-buttons"><button class="button" type="button" onClick=${onClose}>Cancel</button>
      <button class="button primary" type="submit" disabled=${action.isBusy || !Object.keys(change).length}>Save</button></div>
  </form><//>`;
}

function textsOf({ quotas, weight }) {
  const texts = FIELDS.map(([name, , unit]) => [name, quotas[name] === null ? "" : String(quotas[name] / unit)]);
  return { ...Object.fromEntries(texts), weight: String(weight) };
}

function changeOf(before, texts) {
  const changed = FIELDS.filter(([name]) => texts[name] !== before[name]);
  const quotas = changed.map(([name, , unit]) => [name, texts[name] === "" ? null : Math.round(Number(texts[name]) * unit)]);
  return {
    ...(changed.length && { quotas: Object.fromEntries(quotas) }),
    ...(texts.weight !== before.weight && { weight: Number(texts.weight) }),
  };
}
