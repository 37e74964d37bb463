// Which adapter and which version of it: out of a list where there are few, by typing where there are thousands.
import { useEffect, useState } from "preact/hooks";
import { getAll, getJson, part } from "../lib/api.js";
import { useDelayed, useLoad } from "../lib/hooks.js";
import { html } from "../lib/html.js";

const MOST_SUGGESTED = 20;

export function AdapterField({ adapters, isAll, place, name, onName }) {
  const Choice = isAll ? Select : Search;
  return html`<label><span class="hidden">Adapter ${place}</span><${Choice} adapters=${adapters} place=${place} name=${name} onName=${onName} /></label>`;
}

// A name that came with the address may be another tenant's.
function Select({ adapters, name, onName }) {
  const names = adapters.map((adapter) => adapter.name);
  return html`<select class="select" value=${name} onChange=${(event) => onName(event.currentTarget.value)}>
    ${(names.includes(name) ? names : [name, ...names]).map((known) => html`<option value=${known}>${known}</option>`)}
  </select>`;
}

function Search({ place, name, onName }) {
  const [text, setText] = useState(name);
  useEffect(() => setText(name), [name]);
  const wanted = useDelayed(text, 200);
  const { data } = useLoad(() => suggest(wanted), [wanted]);
  const choose = (value) => value && value !== name && onName(value);
  const onInput = ({ currentTarget: { value } }) => {
    setText(value);
    if (data?.includes(value)) choose(value); // picked from the list, or typed as it stands there
  };
  return html`<input class="select" type="text" value=${text} list=${`adapters-${place}`} autocomplete="off" spellcheck=${false} placeholder="Type a name"
      onInput=${onInput} onChange=${(event) => choose(event.currentTarget.value.trim())} />
    <datalist id=${`adapters-${place}`}>${data?.map((known) => html`<option value=${known} />`)}</datalist>`;
}

async function suggest(text) {
  const search = text ? `&search=${part(text)}` : "";
  return (await getJson(`v1/adapters?limit=${MOST_SUGGESTED}${search}`)).data.map(({ name }) => name);
}

export function VersionSelect({ name, place, reference, onRef }) {
  const { data } = useLoad(() => loadTargets(name), [name]);
  const current = reference.includes("@") ? reference.split("@")[1] : "";
  const targets = data ?? (current ? [current] : []);
  return html`<label><span class="hidden">Version of adapter ${place}</span>
    <select class="select" value=${current} onChange=${({ currentTarget: { value } }) => onRef(value ? `${name}@${value}` : name)}>
      <option value="">default</option>
      ${targets.map((target) => html`<option value=${target}>${/^\d+$/.test(target) ? `version ${target}` : target}</option>`)}
    </select></label>`;
}

async function loadTargets(name) {
  const versions = await getAll(`admin/v1/adapters/${part(name)}/versions`);
  const aliases = new Set(versions.flatMap((version) => version.aliases));
  return [...aliases, ...versions.map(({ version }) => String(version))];
}
