// The console: a door for the key, then the pages. What they show comes from the public API alone.
import { render } from "preact";
import { useEffect, useState } from "preact/hooks";
import { KEY_REFUSED } from "./lib/api.js";
import { html } from "./lib/html.js";
import { useLoad } from "./lib/hooks.js";
import { enter } from "./lib/identity.js";
import { useRoute } from "./lib/route.js";
import { forgetKey, readKey } from "./lib/session.js";
import { AdapterPage } from "./pages/adapter.js";
import { AdaptersPage } from "./pages/adapters.js";
import { KeysPage } from "./pages/keys.js";
import { LivePage } from "./pages/live.js";
import { PlaygroundPage } from "./pages/playground.js";
import { SignIn } from "./pages/sign_in.js";
import { UploadPage } from "./pages/upload.js";
import { Empty, Loading, ProblemNotice } from "./parts/notice.js";
import { Shell } from "./parts/shell.js";

const PAGES = { playground: PlaygroundPage, live: LivePage, upload: UploadPage, keys: KeysPage };

function Console() {
  const route = useRoute();
  const [refused, setRefused] = useState(null);
  const me = useLoad(enter, [refused]);
  useEffect(() => {
    // Without a key nothing was refused: the door opens for the first time.
    const onRefused = ({ detail }) => {
      if (readKey()) setRefused({ detail });
      forgetKey();
    };
    addEventListener(KEY_REFUSED, onRefused);
    return () => removeEventListener(KEY_REFUSED, onRefused);
  }, []);

  const leave = () => {
    forgetKey();
    setRefused({});
  };
  if (me.isLoading && !me.data) return html`<div class="door"><${Loading} what="Reaching the server" /></div>`;
  if (me.problem?.status === 401) {
    return html`<${SignIn} refusal=${refused?.detail} onKey=${() => setRefused({})} />`;
  }
  if (me.problem) {
    return html`<main class="door"><h1 class="hidden">Prefixrack</h1>
      <${ProblemNotice} problem=${me.problem} onRetry=${me.reload} /></main>`;
  }
  return html`<${Shell} route=${route} me=${me.data} onLeave=${leave}>
    <${Page} route=${route} me=${me.data} />
  <//>`;
}

function Page({ route, me }) {
  const { page, rest, query } = route;
  if (page === "adapters" && rest[0]) return html`<${AdapterPage} key=${rest[0]} name=${rest[0]} query=${query} me=${me} />`;
  if (page === "adapters") return html`<${AdaptersPage} key=${`${query}`} query=${query} me=${me} />`;
  const known = PAGES[page];
  if (known) return html`<${known} key=${`${page}?${query}`} query=${query} me=${me} />`;
  return html`<h1>Not here</h1><${Empty} title="There is no such page" icon="search">
    <a href="#/adapters">All adapters</a>
  <//>`;
}

render(html`<${Console} />`, document.getElementById("app"));
