// An adapter's versions: where their tensors are, what they claim; two of them side by side; deleting one.
import { useState } from "preact/hooks";
import { getJson, part, send } from "../lib/api.js";
import { ago, bytes, metric, moment, NOTHING, shortDigest } from "../lib/format.js";
import { useAction, useLoad } from "../lib/hooks.js";
import { html } from "../lib/html.js";
import { playgroundHash } from "../lib/route.js";
import { AliasChip, TierChip } from "./chips.js";
import { Comparison } from "./comparison.js";
import { Confirm } from "./dialog.js";
import { Icon } from "./icons.js";
import { toast } from "./toast.js";

export function Versions({ name, versions, onChange, me }) {
  const [chosen, setChosen] = useState([]);
  const toggle = (number) =>
    setChosen((before) => (before.includes(number) ? before.filter((other) => other !== number) : [...before, number].slice(-2)));
  const [older, newer] = [...chosen].sort((a, b) => a - b);
  return html`<section class="card" aria-labelledby="versions">
    <div class="card-head"><h2 id="versions">Versions</h2>
      ${versions.length > 1 && html`<p class="muted small-text">${chosen.length === 2 && me.can("predict") ? html`<a href=${playgroundHash([`${name}@${older}`, `${name}@${newer}`])}>Try both side by side</a>` : "Choose two to compare them"}</p>`}</div>
    <table class="table rows"><caption class="hidden">Versions of ${name}</caption>
      <thead><tr>${versions.length > 1 && html`<th scope="col"><span class="hidden">Compare</span></th>`}<th scope="col">Version</th><th scope="col">Score</th>
        <th scope="col">Uploaded</th><th scope="col">Where</th><th scope="col"><span class="hidden">Actions</span></th></tr></thead>
      <tbody>${versions.map((version) => html`<${VersionRow} key=${version.version} name=${name} version=${version} onChange=${onChange} me=${me}
        isChosen=${chosen.includes(version.version)} onToggle=${versions.length > 1 ? toggle : null} />`)}</tbody></table>
    ${chosen.length === 2 && html`<${Comparison} name=${name} older=${older} newer=${newer} />`}
  </section>`;
}

function VersionRow({ name, version, isChosen, onToggle, onChange, me }) {
  const { version: number, digest, aliases, metrics, created_at: at, created_by: by, size_bytes: size } = version;
  const path = `admin/v1/adapters/${part(name)}/versions/${number}`;
  const residency = useLoad(() => getJson(`${path}/residency`), [path]);
  return html`<tr>
    ${onToggle && html`<td class="row-check"><input type="checkbox" aria-label=${`Compare version ${number}`} checked=${isChosen} onChange=${() => onToggle(number)} /></td>`}
    <th scope="row"><span class="chips"><b>${number}</b>${aliases.map((alias) => html`<${AliasChip} alias=${alias} />`)}</span>
      <span class="row-digest small-text"><code class="nowrap" title=${digest}>${shortDigest(digest)}</code> <span class="nowrap">${bytes(size)}</span></span></th>
    <td data-label="Score">${metrics.length ? html`<b class="figure">${metric(metrics[0]).text}</b> <span class="muted">${metrics[0].name}</span>` : NOTHING}</td>
    <td data-label="Uploaded"><span class="nowrap" title=${`${moment(at)} by ${by}`}>${ago(at)}</span></td>
    <td data-label="Where"><${TierChip} residency=${residency.data} /></td>
    <td class="row-action"><${VersionActions} name=${name} number=${number} path=${path} residency=${residency} isNeeded=${aliases.some((alias) => alias !== "latest")} onChange=${onChange} mayWrite=${me.can("adapters:write")} /></td>
  </tr>`;
}

function VersionActions({ name, number, path, residency, isNeeded, onChange, mayWrite }) {
  const [isAsking, setIsAsking] = useState(false);
  const isKept = residency.data?.keep_resident;
  const keep = useAction(async () => {
    await send("PUT", `${path}/residency`, { body: { keep_resident: !isKept } });
    residency.reload();
  });
  const save = useAction(() => download(`${path}/bundle`, `${name}-${number}.tar`));
  const remove = useAction(() => send("DELETE", path));
  const removed = () => {
    setIsAsking(false);
    toast(`Version ${number} was deleted`);
    onChange();
  };
  const problem = keep.problem ?? save.problem;
  const keepName = `${isKept ? "Let go of" : "Keep"} version ${number} on the device`;
  return html`<div class="menu">
      <${IconButton} icon="download" name=${`Download version ${number}`} onClick=${save.run} disabled=${save.isBusy} />
      ${mayWrite && html`<${IconButton} icon="pin" name=${keepName} onClick=${keep.run} disabled=${keep.isBusy || !residency.data} pressed=${isKept} />
      <${IconButton} icon="delete" name=${`Delete version ${number}`} onClick=${() => setIsAsking(true)} disabled=${isNeeded} />`}
    </div>
    ${problem && html`<p class="field-problem" role="alert">${problem.message}</p>`}
    ${isAsking && html`<${Confirm} title=${`Delete version ${number} of ${name}?`} text="Requests in flight finish on it. The number is not given out again."
      verb="Delete" action=${remove} onClose=${() => setIsAsking(false)} onDone=${removed} />`}`;
}

function IconButton({ icon, name, onClick, disabled, pressed }) {
  return html`<button class="button small icon-only" title=${name} aria-label=${name} aria-pressed=${pressed} disabled=${disabled}
    onClick=${onClick}><${Icon} name=${icon} /></button>`;
}

// A link could not carry the key: the file is fetched, then handed to the browser.
async function download(path, fileName) {
  const response = await send("GET", path, { headers: { Accept: "application/x-tar" } });
  const url = URL.createObjectURL(await response.blob());
  const link = Object.assign(document.createElement("a"), { href: url, download: fileName });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}
