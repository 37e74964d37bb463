// What two versions' manifests say differently.
import { useLoad } from "../lib/hooks.js";
import { html } from "../lib/html.js";
import { diffLists, diffManifests } from "../lib/manifest_diff.js";
import { readVersion } from "../lib/version.js";
import { Loading, ProblemNotice } from "./notice.js";

export function Comparison({ name, older, newer }) {
  const { data, problem, reload } = useLoad(() => Promise.all([readVersion(name, older), readVersion(name, newer)]), [name, older, newer]);
  const changes = data && diffManifests(data[0].manifest, data[1].manifest);
  return html`<section class="comparison" aria-labelledby="comparison">
    <h3 id="comparison">Manifests of version ${older} and ${newer}</h3>
    <${ProblemNotice} problem=${problem} onRetry=${reload} />
    ${!data && !problem && html`<${Loading} what="Reading both manifests" />`}
    ${changes?.length === 0 && html`<p class="muted">They say the same: only the tensors differ.</p>`}
    ${changes?.length > 0 && html`<table class="plain diff"><thead><tr><th scope="col">Field</th><th scope="col">Version ${older}</th><th scope="col">Version ${newer}</th></tr></thead>
      <tbody>${changes.map((change) => html`<${Change} ...${change} />`)}</tbody></table>`}
  </section>`;
}

function Change({ path, before, after }) {
  const lists = diffLists(before, after);
  const [left, right] = lists ? [lists.removed, lists.added].map((entries) => entries.map(show).join(entries.some(isObject) ? "\n" : ", ")) : [before, after].map(show);
  const isMoved = lists && !left && !right;
  return html`<tr><th scope="row"><code>${path}</code></th>
    <td>${isMoved ? html`<span class="muted">the same entries</span>` : left && html`<del>${left}</del>`}</td>
    <td>${isMoved ? html`<span class="muted">in another order</span>` : right && html`<ins>${right}</ins>`}</td></tr>`;
}

const isObject = (value) => value !== null && typeof value === "object";

function show(value) {
  if (value === undefined) return "";
  if (typeof value === "string") return value;
  if (!isObject(value) || Array.isArray(value)) return JSON.stringify(value);
  return Object.entries(value).map(([key, inner]) => `${key} ${show(inner)}`).join(", ");
}
