// What the server does right now: read from its Prometheus metrics every two seconds.
import { useFeed } from "../lib/feed.js";
import { bytes, count, duration, percent, rate } from "../lib/format.js";
import { html } from "../lib/html.js";
import { bucketsBetween, quantile, rateBetween } from "../lib/prometheus.js";
import { Bars } from "../parts/bars.js";
import { Chart } from "../parts/chart.js";
import { Loading, ProblemNotice } from "../parts/notice.js";

const QUANTILES = [0.5, 0.95, 0.99];
const MAX_TENANTS = 8;
const LATENCY = "prefixrack_adapter_seconds";

export function LivePage() {
  const feed = useFeed();
  return html`<div class="page-head"><div><h1>Live</h1>
      <p class="lead">${feed.last ? describe(feed.last) : "The engine, every two seconds."}</p></div>
      ${feed.last && html`<${Pulse} feed=${feed} />`}</div>
    <${ProblemNotice} problem=${feed.problem} />
    ${!feed.last && !feed.problem && html`<${Loading} what="Reading the metrics" />`}
    ${feed.last && html`<${Board} feed=${feed} />`}`;
}

function describe(sample) {
  const [build] = sample.all("prefixrack_build_info");
  return build ? `${build.labels.backbone} in ${build.labels.dtype} on ${build.labels.device}` : "The engine, every two seconds.";
}

function Pulse({ feed }) {
  const isReady = !feed.problem && feed.last.sum("prefixrack_engine_ready") === 1;
  return html`<span class=${`pulse ${isReady ? "pulse-good" : "pulse-bad"}`} role="status"><span class="tier-dot" aria-hidden="true"></span>
    ${isReady ? "Taking work" : feed.problem ? "Not reached" : "Not ready"}</span>`;
}

function Board({ feed }) {
  const { last } = feed;
  const latency = feed.buckets(LATENCY);
  const tokens = feed.rate("prefixrack_tokens_total");
  return html`<dl class="tiles">
      <${Tile} word="Tokens/s" value=${rate(tokens)} more="in the last minute" />
      <${Tile} word="Requests/s" value=${rate(feed.rate("prefixrack_adapter_requests_total"))} more="predictions, all adapters" />
      <${Tile} word="p95 latency" value=${duration(quantile(0.95, latency))} more=${`p50 ${duration(quantile(0.5, latency))} · p99 ${duration(quantile(0.99, latency))}`} />
      <${Tile} word="Queue" value=${count(last.sum("prefixrack_queue_rows"))} more=${`rows waiting · ${count(last.sum("prefixrack_inflight_rows"))} in flight`} />
    </dl>
    <div class="board">
      <${Panel} title="Tokens per second"><${Curves} feed=${feed} of=${TokensChart} /><//>
      <${Panel} title="Latency"><${Curves} feed=${feed} of=${LatencyChart} /><//>
      <${Panel} title="Queue"><${Curves} feed=${feed} of=${QueueChart} /><//>
      <${Panel} title="Rows in a pack" more="Shares of the packs of the last minute; where it was quiet, of all"><${PackSizes} feed=${feed} /><//>
      <${Panel} title="Memory for adapters"><${Memory} sample=${last} /><//>
      <${Panel} title="Tenants" more="Shares of the tokens of the last minute; where it was quiet, of all"><${Tenants} feed=${feed} /><//>
    </div>`;
}

const Tile = ({ word, value, more }) => html`<div class="tile"><dt>${word}</dt><dd><b class="figure">${value}</b><span>${more}</span></dd></div>`;

const Panel = ({ title, more, children }) => html`<section class="card panel" aria-label=${title}><h2>${title}</h2>
  ${more && html`<p class="muted small-text">${more}</p>`}${children}</section>`;

// A curve needs two points, and each of them two scrapes.
const MIN_SAMPLES = 3;

const Curves = ({ feed, of }) =>
  feed.samples.length < MIN_SAMPLES ? html`<p class="muted quiet chart-plot">Curves begin in a moment.</p>` : html`<${of} feed=${feed} />`;

const timesOf = (feed) => feed.samples.slice(1).map(({ seconds }) => seconds);

function TokensChart({ feed }) {
  const values = feed.curve((before, after) => rateBetween(before, after, "prefixrack_tokens_total"));
  return html`<${Chart} times=${timesOf(feed)} curves=${[{ label: "tokens/s", values }]} format=${rate}
    floor=${50} summary=${`Tokens per second over time, now ${rate(values.at(-1) ?? null)}`} />`;
}

function LatencyChart({ feed }) {
  const curves = QUANTILES.map((share) => ({
    label: `p${share * 100}`,
    values: feed.curve((before, after) => quantile(share, bucketsBetween(before, after, LATENCY))),
  }));
  return html`<${Chart} times=${timesOf(feed)} curves=${curves} format=${duration} floor=${0.05} summary="Latency percentiles over time" />`;
}

function QueueChart({ feed }) {
  const curves = [
    ["waiting", "prefixrack_queue_rows"],
    ["in flight", "prefixrack_inflight_rows"],
  ].map(([label, name]) => ({ label, values: feed.curve((_, after) => after.sum(name)) }));
  return html`<${Chart} times=${timesOf(feed)} curves=${curves} format=${count} floor=${5} summary="Rows waiting and in flight over time" />`;
}

function PackSizes({ feed }) {
  const buckets = feed.buckets("prefixrack_pack_rows");
  const total = buckets.reduce((sum, bucket) => sum + bucket.count, 0);
  if (!total) return html`<p class="muted quiet">No packs yet: send a request.</p>`;
  let lower = 0;
  const entries = buckets.map(({ bound, count: packs }) => {
    const label = bound === lower + 1 ? `${bound}` : Number.isFinite(bound) ? `${lower + 1}–${bound}` : `> ${lower}`;
    lower = bound;
    return { label, value: packs / total, text: percent(packs / total, 0) };
  });
  const last = entries.findLastIndex(({ value }) => value > 0);
  return html`<${Bars} entries=${entries.slice(0, Math.max(last + 1, 4))} max=${Math.max(...entries.map(({ value }) => value))} label="Shares of packs by number of rows" />`;
}

function Memory({ sample }) {
  const entries = [
    ["Device", "prefixrack_resident"],
    ["Host", "prefixrack_host"],
  ].map(([label, name]) => ({ label, used: sample.sum(`${name}_bytes`), budget: sample.sum(`${name}_budget_bytes`) }));
  const adapters = sample.sum("prefixrack_resident_adapters");
  return html`<${Bars} label="Memory in use" entries=${entries.filter(({ budget }) => budget > 0).map(({ label, used, budget }) => ({
      label, value: used / budget, text: `${bytes(used)} of ${bytes(budget)}`,
    }))} />
    <dl class="facts"><div><dt>On the device</dt><dd>${count(adapters)} versions</dd></div>
      <div><dt>Loads</dt><dd>${count(sample.sum("prefixrack_loads_total"))}</dd></div>
      <div><dt>Evictions</dt><dd>${count(sample.sum("prefixrack_evictions_total"))}</dd></div>
      <div><dt>Failed loads</dt><dd>${count(sample.sum("prefixrack_failed_loads_total"))}</dd></div></dl>`;
}

function Tenants({ feed }) {
  const name = "prefixrack_tenant_tokens_total";
  const tenants = feed.last.labelValues(name, "tenant");
  const recent = tenants.map((tenant) => [tenant, feed.rate(name, { tenant }) ?? 0]);
  const isQuiet = recent.every(([, value]) => value === 0);
  const shown = (isQuiet ? tenants.map((tenant) => [tenant, feed.last.sum(name, { tenant })]) : recent).filter(([, value]) => value > 0);
  if (!shown.length) return html`<p class="muted quiet">Nobody asked for anything yet.</p>`;
  const total = shown.reduce((sum, [, value]) => sum + value, 0);
  const entries = shown.sort(([, a], [, b]) => b - a).slice(0, MAX_TENANTS).map(([tenant, value]) => ({
    label: tenant === "_other" ? "all others" : tenant,
    value: value / total,
    text: isQuiet ? `${count(value)} tokens` : `${percent(value / total, 0)} · ${rate(value)} tokens/s`,
  }));
  return html`<${Bars} entries=${entries} label="Tokens by tenant" />`;
}
