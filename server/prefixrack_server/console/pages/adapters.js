// All adapters that the key may use, with what they claim, what they get to do, and where they are.
import { useState } from "preact/hooks";
import { nameFrom, ownerOf } from "../lib/adapter_ref.js";
import { getJson, part } from "../lib/api.js";
import { useFeed } from "../lib/feed.js";
import { duration, metric, NOTHING, plural, rate } from "../lib/format.js";
import { useDelayed, useLoad } from "../lib/hooks.js";
import { html } from "../lib/html.js";
import { adapterHash, adaptersHash, noteAddress, playgroundHash, uploadHash } from "../lib/route.js";
import { trafficOf } from "../lib/traffic.js";
import { AliasChip, TaskChip, TierChip } from "../parts/chips.js";
import { Icon } from "../parts/icons.js";
import { Empty, Loading, ProblemNotice } from "../parts/notice.js";
import { TenantSelect } from "../parts/tenant_select.js";

const PAGE_SIZE = 25;

const SCOPE = "adapters:read";

export function AdaptersPage({ query, me }) {
  if (me.can(SCOPE)) return html`<${Catalogue} query=${query} me=${me} />`;
  return html`<div class="page-head"><h1>Adapters</h1></div>
    <${Empty} title="Your key cannot list adapters"><p>That needs a key with the scope <code>${SCOPE}</code>. This one may still ask adapters by their names, over the API.</p><//>`;
}

function Catalogue({ query, me }) {
  const [tenant, setTenant] = useState(query.get("tenant") ?? me.tenant);
  const [search, setSearch] = useState("");
  const wanted = useDelayed(search, 200);
  const [cursors, setCursors] = useState([]); // of the pages after the first
  const { data, problem, isLoading, reload } = useLoad(() => loadPages(tenant, wanted, cursors), [tenant, wanted, cursors]);
  const onSearch = (event) => {
    setSearch(event.currentTarget.value);
    setCursors([]);
  };
  const onTenant = (other) => {
    setTenant(other);
    setCursors([]);
    noteAddress(adaptersHash(other, me.tenant));
  };
  return html`<div class="page-head">
      <div><h1>Adapters</h1><p class="lead">${leadOf(tenant, me)}</p></div>
      ${me.can("adapters:write") && html`<a class="button primary" href=${uploadHash(tenant, me.tenant)}><${Icon} name="upload" />Upload</a>`}
    </div>
    <${TenantSelect} tenant=${tenant} onTenant=${onTenant} me=${me} />
    <div class="toolbar">
      <label class="search"><span class="hidden">Search adapters by name</span><${Icon} name="search" />
        <input type="search" placeholder="Search by name" value=${search} onInput=${onSearch} /></label>
      <p class="muted" role="status">${data && found(data, wanted)}</p>
    </div>
    <${ProblemNotice} problem=${problem} onRetry=${reload} />
    ${!data && isLoading && html`<${Loading} what="Loading adapters" />`}
    ${data?.adapters.length === 0 && html`<${NoAdapters} search=${wanted} tenant=${tenant} me=${me} />`}
    ${data?.adapters.length > 0 && html`<${AdapterTable} adapters=${data.adapters} tenant=${tenant} me=${me} />`}
    ${data?.next && html`<button class="button more" disabled=${isLoading}
      onClick=${() => setCursors([...cursors, data.next])}>${isLoading ? "Loading…" : "Show more"}</button>`}`;
}

function leadOf(tenant, { adapter_patterns: patterns }) {
  const limits = patterns.map((some) => some.join(", ")).join(" and ");
  return `Adapters of the tenant ${tenant}${limits ? ` that this key may use: ${limits}` : ""}, on one shared backbone.`;
}

const found = ({ adapters, next }, search) =>
  `${adapters.length}${next ? "+" : ""} ${search ? "found" : adapters.length === 1 ? "adapter" : "adapters"}`;

async function loadPages(tenant, search, cursors) {
  const query = `v1/adapters?limit=${PAGE_SIZE}&tenant=${part(tenant)}${search ? `&search=${part(search)}` : ""}`;
  const pages = await Promise.all(
    ["", ...cursors].map((cursor) => getJson(cursor ? `${query}&cursor=${part(cursor)}` : query)),
  );
  return { adapters: pages.flatMap(({ data }) => data), next: pages.at(-1).next_cursor };
}

function NoAdapters({ search, tenant, me }) {
  if (search) return html`<${Empty} title="No adapter has this in its name" icon="search">Names are lower case: try a shorter part.<//>`;
  return html`<${Empty} title="No adapters yet">
    <p>Train one with <code>prefixrack train</code>, or convert one with <code>prefixrack import</code>.</p>
    ${me.can("adapters:write") && html`<a class="button primary" href=${uploadHash(tenant, me.tenant)}><${Icon} name="upload" />Upload a bundle</a>`}
  <//>`;
}

function AdapterTable({ adapters, tenant, me }) {
  const feed = useFeed();
  return html`<div class="card flush"><table class="table rows">
    <caption class="hidden">Adapters</caption>
    <thead><tr>
      <th scope="col">Name</th><th scope="col">Task</th><th scope="col">Versions</th><th scope="col">Score</th>
      <th scope="col" class="number" title="In the last minute">Requests/s</th>
      <th scope="col" class="number" title="In the last minute; where it was quiet, since the server's start">p95</th>
      <th scope="col">Where</th>${me.can("predict") && html`<th scope="col"><span class="hidden">Try</span></th>`}
    </tr></thead>
    <tbody>${adapters.map((adapter) => html`<${AdapterRow} key=${`${tenant}:${adapter.name}`} adapter=${adapter} name=${nameFrom(tenant, adapter.name, me.tenant)} feed=${feed} me=${me} />`)}</tbody>
  </table></div>`;
}

function AdapterRow({ adapter, name, feed, me }) {
  const { name: ownName, task, aliases, version, num_versions: numVersions } = adapter;
  const { data } = useLoad(() => loadRow(name, version), [name, version]);
  const { perSecond, p95 } = trafficOf(feed, ownerOf(name, me.tenant));
  return html`<tr>
    <th scope="row" class="row-name"><a href=${adapterHash(name)}>${ownName}</a></th>
    <td data-label="Task"><${TaskChip} task=${task} /></td>
    <td data-label="Versions"><span class="chips"><span class="hidden">${plural(numVersions, "version")}: </span>
      ${Object.entries(aliases).map(([alias, number]) => html`<${AliasChip} alias=${alias} version=${number} />`)}</span></td>
    <td data-label="Score"><${Score} metrics=${data?.detail.metrics} /></td>
    <td data-label="Requests/s" class="number">${rate(perSecond)}</td>
    <td data-label="p95" class="number">${duration(p95)}</td>
    <td data-label="Where"><${TierChip} residency=${data?.residency} /></td>
    ${me.can("predict") && html`<td class="row-action"><a class="button small" href=${playgroundHash([name])} aria-label=${`Try ${ownName}`}>Try</a></td>`}
  </tr>`;
}

function Score({ metrics }) {
  if (!metrics?.length) return html`<span class="muted">${NOTHING}</span>`;
  const { name, text } = metric(metrics[0]);
  return html`<span title=${`${metrics[0].dataset}, ${metrics[0].split}: claimed by who uploaded it`}><b class="figure">${text}</b> <span class="muted">${name}</span></span>`;
}

async function loadRow(name, version) {
  const [detail, residency] = await Promise.all([
    getJson(`v1/adapters/${part(`${name}@${version}`)}`),
    getJson(`admin/v1/adapters/${part(name)}/versions/${version}/residency`),
  ]);
  return { detail, residency };
}
