// One adapter: what it is, its versions, where its aliases point, what changed between two, what was done to it.
import { ownerOf } from "../lib/adapter_ref.js";
import { getAll, getJson, part } from "../lib/api.js";
import { useFeed } from "../lib/feed.js";
import { count, duration, metric, rate } from "../lib/format.js";
import { useLoad } from "../lib/hooks.js";
import { html } from "../lib/html.js";
import { Markdown } from "../lib/markdown.js";
import { adaptersHash, playgroundHash } from "../lib/route.js";
import { trafficOf } from "../lib/traffic.js";
import { readVersion } from "../lib/version.js";
import { Audit } from "../parts/audit.js";
import { TaskChip } from "../parts/chips.js";
import { CopyButton } from "../parts/copy.js";
import { Icon } from "../parts/icons.js";
import { Loading, ProblemNotice } from "../parts/notice.js";
import { Rollout } from "../parts/rollout.js";
import { Versions } from "../parts/versions.js";

export function AdapterPage({ name, me }) {
  const { data, problem, isLoading, reload } = useLoad(() => loadAdapter(name), [name]);
  const owner = ownerOf(name, me.tenant);
  return html`<a class="back" href=${adaptersHash(owner.tenant, me.tenant)}><${Icon} name="back" />Adapters</a>
    <div class="page-head"><div><h1>${name}</h1>
        ${data && html`<p class="lead"><${TaskChip} task=${data.detail.task} /> ${data.detail.licence && html`<span class="muted">${data.detail.licence}</span>`}</p>`}</div>
      ${me.can("predict") && html`<a class="button primary" href=${playgroundHash([name])}><${Icon} name="playground" />Playground</a>`}</div>
    <${ProblemNotice} problem=${problem} onRetry=${reload} />
    ${!data && isLoading && html`<${Loading} what="Loading the adapter" />`}
    ${data && html`<${Traffic} owner=${owner} detail=${data.detail} />
      <div class="columns">
        <div class="stack">
          <${Rollout} name=${name} aliases=${data.aliases} versions=${data.versions} onChange=${reload} me=${me} />
          <${Versions} name=${name} versions=${data.versions} onChange=${reload} me=${me} />
          <${Card} name=${name} version=${data.detail.version} />
        </div>
        <div class="stack">
          <${Facts} detail=${data.detail} />
          <${Audit} name=${name} marker=${data} me=${me} />
        </div>
      </div>`}`;
}

async function loadAdapter(name) {
  const path = `admin/v1/adapters/${part(name)}`;
  const [detail, versions, aliases] = await Promise.all([
    getJson(`v1/adapters/${part(name)}`),
    getAll(`${path}/versions`),
    getJson(`${path}/aliases`),
  ]);
  return { detail, versions, aliases: aliases.data };
}

function Traffic({ owner, detail }) {
  const feed = useFeed();
  const { perSecond, total, p95 } = trafficOf(feed, owner);
  const [first] = detail.metrics;
  return html`<dl class="tiles">
    <div class="tile"><dt>Requests/s</dt><dd><b class="figure">${rate(perSecond)}</b><span>in the last minute</span></dd></div>
    <div class="tile"><dt>p95 latency</dt><dd><b class="figure">${duration(p95)}</b><span>on the server</span></dd></div>
    <div class="tile"><dt>Requests</dt><dd><b class="figure">${count(total)}</b><span>since the server's start</span></dd></div>
    ${first && html`<div class="tile"><dt>${first.name}</dt><dd><b class="figure">${metric(first).text}</b><span>claimed on ${first.dataset}, ${first.split}</span></dd></div>`}
  </dl>`;
}

const MAX_LABELS = 24;

function Facts({ detail }) {
  const { labels } = detail;
  const facts = [
    ["Bare name answers with", `version ${detail.version}`],
    ["Input", detail.input_format === "plain" ? "plain" : detail.input_format],
    ["Longest input", `${detail.max_tokens} tokens`],
    ["Prefix", `${detail.prefix_len} vectors, ${detail.prefix_kind}`],
  ];
  return html`<section class="card stack" aria-labelledby="facts"><h2 id="facts">About</h2>
    <dl class="facts">${facts.map(([word, value]) => html`<div><dt>${word}</dt><dd>${value}</dd></div>`)}
      <div><dt>Digest</dt><dd class="digest"><code>${detail.digest.slice(0, 12)}…</code><${CopyButton} text=${detail.digest} what="Digest copied" /></dd></div></dl>
    ${detail.metrics.length > 0 && html`<div><h3>Claimed scores</h3><${Metrics} metrics=${detail.metrics} /></div>`}
    ${labels.length > 0 && html`<div><h3>${labels.length} labels</h3>
      <p class="labels">${labels.slice(0, MAX_LABELS).map((label) => html`<code>${label}</code>`)}</p>
      ${labels.length > MAX_LABELS && html`<details><summary>${labels.length - MAX_LABELS} more</summary>
        <p class="labels">${labels.slice(MAX_LABELS).map((label) => html`<code>${label}</code>`)}</p></details>`}</div>`}
  </section>`;
}

function Metrics({ metrics }) {
  return html`<table class="plain"><caption class="hidden">Scores that the uploader measured</caption>
    <thead><tr><th scope="col">Metric</th><th scope="col">Data</th><th scope="col" class="number">Value</th></tr></thead>
    <tbody>${metrics.map((entry) => html`<tr><td>${entry.name}</td><td class="muted">${entry.dataset}, ${entry.split}</td>
      <td class="number">${metric(entry).text}</td></tr>`)}</tbody></table>`;
}

function Card({ name, version }) {
  const { data, problem, reload } = useLoad(() => readVersion(name, version), [name, version]);
  return html`<section class="card" aria-labelledby="card"><h2 id="card">Card</h2>
    <${ProblemNotice} problem=${problem} onRetry=${reload} />
    ${!data && !problem && html`<${Loading} what="Loading the card" />`}
    ${data && (data.card ? html`<${Markdown} text=${data.card} />` : html`<p class="muted">This version has no card: a README.md in its bundle would stand here.</p>`)}
  </section>`;
}
