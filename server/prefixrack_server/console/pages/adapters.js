// All adapters that the key may use, with what they claim, what they get to do, and where they are.
import { useState } from "preact/hooks";
import { getJson, part } from "../lib/api.js";
import { useFeed } from "../lib/feed.js";
import { duration, metric, NOTHING, plural, rate } from "../lib/format.js";
import { useDelayed, useLoad } from "../lib/hooks.js";
import { html } from "../lib/html.js";
import { adapterHash, playgroundHash } from "../lib/route.js";
import { trafficOf } from "../lib/traffic.js";
import { AliasChip, TaskChip, TierChip } from "../parts/chips.js";
import { Icon } from "../parts/icons.js";
import { Empty, Loading, ProblemNotice } from "../parts/notice.js";

const PAGE_SIZE = 25;

export function AdaptersPage({ server }) {
  const [search, setSearch] = useState("");
  const wanted = useDelayed(search, 200);
  const [cursors, setCursors] = useState([]); // of the pages after the first
  const { data, problem, isLoading, reload } = useLoad(() => loadPages(wanted, cursors), [wanted, cursors]);
  const onSearch = (event) => {
    setSearch(event.currentTarget.value);
    setCursors([]);
  };
  return html`<div class="page-head">
      <div><h1>Adapters</h1><p class="lead">Everything that this key may use on the shared backbone.</p></div>
      <a class="button primary" href="#/upload"><${Icon} name="upload" />Upload</a>
    </div>
    <div class="toolbar">
      <label class="search"><span class="hidden">Search adapters by name</span><${Icon} name="search" />
        <input type="search" placeholder="Search by name" value=${search} onInput=${onSearch} /></label>
      <p class="muted" role="status">${data && found(data, wanted)}</p>
    </div>
    <${ProblemNotice} problem=${problem} onRetry=${reload} />
    ${!data && isLoading && html`<${Loading} what="Loading adapters" />`}
    ${data?.adapters.length === 0 && html`<${NoAdapters} search=${wanted} />`}
    ${data?.adapters.length > 0 && html`<${AdapterTable} adapters=${data.adapters} tenant=${server.tenant} />`}
    ${data?.next && html`<button class="button more" disabled=${isLoading}
      onClick=${() => setCursors([...cursors, data.next])}>${isLoading ? "Loading…" : "Show more"}</button>`}`;
}

const found = ({ adapters, next }, search) =>
  `${adapters.length}${next ? "+" : ""} ${search ? "found" : adapters.length === 1 ? "adapter" : "adapters"}`;

async function loadPages(search, cursors) {
  const query = `v1/adapters?limit=${PAGE_SIZE}${search ? `&search=${part(search)}` : ""}`;
  const pages = await Promise.all(
    ["", ...cursors].map((cursor) => getJson(cursor ? `${query}&cursor=${part(cursor)}` : query)),
  );
  return { adapters: pages.flatMap(({ data }) => data), next: pages.at(-1).next_cursor };
}

function NoAdapters({ search }) {
  if (search) return html`<${Empty} title="No adapter has this in its name" icon="search">Names are lower case: try a shorter part.<//>`;
  return html`<${Empty} title="No adapters yet">
    <p>Train one with <code>prefixrack train</code>, or convert one with <code>prefixrack import</code>.</p>
    <a class="button primary" href="#/upload"><${Icon} name="upload" />Upload a bundle</a>
  <//>`;
}

function AdapterTable({ adapters, tenant }) {
  const feed = useFeed();
  return html`<div class="card flush"><table class="table rows">
    <caption class="hidden">Adapters</caption>
    <thead><tr>
      <th scope="col">Name</th><th scope="col">Task</th><th scope="col">Versions</th><th scope="col">Score</th>
      <th scope="col" class="number" title="In the last minute">Requests/s</th>
      <th scope="col" class="number" title="In the last minute; where it was quiet, since the server's start">p95</th>
      <th scope="col">Where</th><th scope="col"><span class="hidden">Try</span></th>
    </tr></thead>
    <tbody>${adapters.map((adapter) => html`<${AdapterRow} key=${adapter.name} adapter=${adapter} feed=${feed} tenant=${tenant} />`)}</tbody>
  </table></div>`;
}

function AdapterRow({ adapter, feed, tenant }) {
  const { name, task, aliases, version, num_versions: numVersions } = adapter;
  const { data } = useLoad(() => loadRow(name, version), [name, version]);
  const { perSecond, p95 } = trafficOf(feed, tenant, name);
  return html`<tr>
    <th scope="row" class="row-name"><a href=${adapterHash(name)}>${name}</a></th>
    <td data-label="Task"><${TaskChip} task=${task} /></td>
    <td data-label="Versions"><span class="chips"><span class="hidden">${plural(numVersions, "version")}: </span>
      ${Object.entries(aliases).map(([alias, number]) => html`<${AliasChip} alias=${alias} version=${number} />`)}</span></td>
    <td data-label="Score"><${Score} metrics=${data?.detail.metrics} /></td>
    <td data-label="Requests/s" class="number">${rate(perSecond)}</td>
    <td data-label="p95" class="number">${duration(p95)}</td>
    <td data-label="Where"><${TierChip} residency=${data?.residency} /></td>
    <td class="row-action"><a class="button small" href=${playgroundHash([name])} aria-label=${`Try ${name}`}>Try</a></td>
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
