// Upload of a bundle: drop it, see what it is, send it, read what the server found.
import { useRef, useState } from "preact/hooks";
import { nameFrom } from "../lib/adapter_ref.js";
import { bytes, percent, plural, shortDigest } from "../lib/format.js";
import { useAction } from "../lib/hooks.js";
import { html } from "../lib/html.js";
import { adapterHash, playgroundHash } from "../lib/route.js";
import { droppedFiles, readSelection, reportOf, sendBundle } from "../lib/upload.js";
import { TaskChip } from "../parts/chips.js";
import { Icon } from "../parts/icons.js";
import { Empty, ProblemNotice } from "../parts/notice.js";
import { TenantSelect } from "../parts/tenant_select.js";

const NAME = "[a-z0-9][a-z0-9._\\-]{0,62}";

const SCOPE = "adapters:write";

export function UploadPage({ query, me }) {
  return html`<div class="page-head"><div><h1>Upload</h1>
      <p class="lead">A bundle becomes a new version and is served at once. It replaces nothing: callers of <code>production</code> stay where they are.</p></div></div>
    ${me.can(SCOPE)
      ? html`<${Upload} query=${query} me=${me} />`
      : html`<${Empty} title="Your key cannot upload" icon="upload"><p>That needs a key with the scope <code>${SCOPE}</code>.</p><//>`}`;
}

function Upload({ query, me }) {
  const [tenant, setTenant] = useState(query.get("tenant") ?? me.tenant);
  const [selection, setSelection] = useState(null);
  const [name, setName] = useState("");
  const [progress, setProgress] = useState(0);
  const [version, setVersion] = useState(null);
  const choose = useAction(async (files) => {
    const read = await readSelection(files);
    setSelection(read);
    setName(read.manifest.name ?? "");
    setVersion(null);
    upload.clear();
  });
  const upload = useAction(async () => {
    setProgress(0);
    setVersion(await sendBundle(nameFrom(tenant, name, me.tenant), selection, setProgress));
  });
  const submit = (event) => {
    event.preventDefault();
    upload.run();
  };
  const restart = () => {
    setSelection(null);
    setVersion(null);
    upload.clear();
    choose.clear();
  };
  return html`<div class="narrow">
      ${!version && html`<${TenantSelect} tenant=${tenant} onTenant=${setTenant} me=${me} />`}
      ${!selection && html`<${DropZone} onFiles=${choose.run} />`}
      ${choose.problem && html`<${ProblemNotice} problem=${choose.problem} />`}
      ${selection && html`<form class="card stack" onSubmit=${submit}>
        <${Summary} selection=${selection} />
        ${!version && html`<label class="field"><span class="field-name">Name on the server</span>
          <input type="text" value=${name} onInput=${(event) => setName(event.currentTarget.value)} pattern=${NAME} required maxlength="63"
            title="Lower case letters, digits, dot, dash and underscore" disabled=${upload.isBusy} spellcheck=${false} /></label>`}
        ${(upload.isBusy || version || upload.problem) && html`<${Progress} progress=${version ? 1 : progress} isBusy=${upload.isBusy} isRefused=${Boolean(upload.problem)} />`}
        <${ProblemNotice} problem=${upload.problem} />
        ${(version || upload.problem?.status >= 400) && html`<${Report} problem=${upload.problem} />`}
        ${version && html`<${Accepted} version=${version} name=${nameFrom(tenant, version.name, me.tenant)} />`}
        <div class="form-foot">
          ${!version && html`<button class="button primary" type="submit" disabled=${upload.isBusy}><${Icon} name="upload" />${upload.isBusy ? "Uploading…" : upload.problem ? "Upload again" : "Upload"}</button>`}
          <button class="button" type="button" onClick=${restart} disabled=${upload.isBusy}>${version ? "Upload another" : "Choose another"}</button>
        </div>
      </form>`}
    </div>`;
}

function DropZone({ onFiles }) {
  const [isOver, setIsOver] = useState(false);
  const input = useRef(null);
  const over = (event) => {
    event.preventDefault();
    setIsOver(true);
  };
  const drop = async (event) => {
    event.preventDefault();
    setIsOver(false);
    onFiles(await droppedFiles(event.dataTransfer.items));
  };
  return html`<div class=${`drop ${isOver ? "drop-over" : ""}`} onDragOver=${over} onDragLeave=${() => setIsOver(false)} onDrop=${drop}>
    <span class="empty-icon"><${Icon} name="upload" /></span>
    <p class="empty-title">Drop a bundle here</p>
    <p class="muted">Its folder, its files (<code>adapter.json</code>, <code>adapter.safetensors</code>, <code>README.md</code>), or a <code>.tar</code> of them</p>
    <label class="button primary file-button">Choose files
      <input ref=${input} type="file" multiple onChange=${() => onFiles([...input.current.files])} /></label>
  </div>`;
}

function Summary({ selection }) {
  const { manifest, sizeBytes, files } = selection;
  const facts = [
    ["Backbone", manifest.backbone?.model_id],
    ["Labels", manifest.labels?.length ? plural(manifest.labels.length, "label") : null],
    ["Prefix", manifest.prefix && `${manifest.prefix.prefix_len} vectors, ${manifest.prefix.kind ?? "deep"}`],
    ["Size", `${bytes(sizeBytes)} in ${plural(files.length, "file")}`],
    ["Licence", manifest.licence],
  ].filter(([, value]) => value);
  return html`<div class="bundle">
    <span class="bundle-icon"><${Icon} name="file" /></span>
    <div><h2>${manifest.name ?? "A bundle without a name"}</h2>${manifest.task && html`<${TaskChip} task=${manifest.task} />`}
      ${manifest.description && html`<p class="muted">${manifest.description}</p>`}</div>
  </div>
  <dl class="facts">${facts.map(([word, value]) => html`<div><dt>${word}</dt><dd>${value}</dd></div>`)}</dl>`;
}

function Progress({ progress, isBusy, isRefused }) {
  const isChecking = isBusy && progress >= 1;
  const text = isChecking ? "Sent. The server is checking it…" : isBusy ? `Sending, ${percent(progress, 0)}` : isRefused ? "Refused" : "Accepted";
  return html`<div class="progress"><progress max="1" value=${progress} aria-label="Upload"></progress>
    <p class="small-text muted" role="status">${text}</p></div>`;
}

const STATES = { passed: ["check", "passed"], failed: ["cross", "failed"], open: ["", "not reached"] };

function Report({ problem }) {
  return html`<section aria-labelledby="report"><h3 id="report">Validation</h3>
    <ol class="report">${reportOf(problem).map(({ text, state }) => html`<li class=${`report-${state}`}>
      <span class="report-mark">${STATES[state][0] && html`<${Icon} name=${STATES[state][0]} />`}</span>
      ${text}<span class="hidden">: ${STATES[state][1]}</span></li>`)}</ol></section>`;
}

function Accepted({ version, name }) {
  const { version: number, digest, is_new: isNew, aliases } = version;
  return html`<div class="notice notice-good" role="status"><${Icon} name="check" /><div>
    <p class="notice-text">${isNew === false ? `This is version ${number} of ${name} already: nothing changed.` : `Version ${number} of ${name} is served now.`}</p>
    <p class="notice-more"><code>${shortDigest(digest)}</code> ${aliases.length ? `aliases: ${aliases.join(", ")}` : ""}</p>
    <p class="notice-links"><a href=${playgroundHash([`${name}@${number}`])}>Try it</a> <a href=${adapterHash(name)}>See the adapter</a></p>
  </div></div>`;
}
