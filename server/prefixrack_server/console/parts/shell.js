// What is around every page: the way to the others, who is signed in, messages.
import { useEffect, useRef } from "preact/hooks";
import { until } from "../lib/format.js";
import { html } from "../lib/html.js";
import { nameOfKey } from "../lib/identity.js";
import { Icon } from "./icons.js";
import { Toasts } from "./toast.js";

// With the scope without which there is nothing to do.
const LINKS = [
  ["adapters", "Adapters"],
  ["playground", "Playground", "predict"],
  ["live", "Live"],
  ["upload", "Upload", "adapters:write"],
  ["keys", "Keys"],
];
const SOON_MS = 7 * 86_400_000;

export function Logo() {
  return html`<span class="logo">
    <svg viewBox="0 0 32 32" aria-hidden="true"><rect width="32" height="32" rx="8" class="logo-ground" />
      <rect x="7" y="8" width="18" height="4" rx="2" class="logo-bar" /><rect x="7" y="14" width="11" height="4" rx="2" class="logo-bar logo-bar-2" />
      <rect x="7" y="20" width="15" height="4" rx="2" class="logo-bar logo-bar-3" /></svg>
    Prefixrack
  </span>`;
}

export function Shell({ route, me, onLeave, children }) {
  const main = useRef(null);
  const isFirst = useRef(true);
  const place = [route.page, ...route.rest].join("/");
  useEffect(() => {
    const heading = main.current.querySelector("h1");
    document.title = `${heading?.textContent ?? "Console"} · Prefixrack`;
    // Whoever moves by keyboard or listens is told that the page is another one.
    if (!isFirst.current) {
      heading?.setAttribute("tabindex", "-1");
      heading?.focus({ preventScroll: true });
      scrollTo(0, 0);
    }
    isFirst.current = false;
  }, [place]);
  const skip = (event) => {
    event.preventDefault();
    main.current.focus();
  };
  return html`<a class="skip" href="#main" onClick=${skip}>Skip to the content</a>
    <div class="shell">
      <header class="side">
        <a class="home" href="#/adapters"><${Logo} /></a>
        <nav class="nav" aria-label="Pages">${LINKS.filter(([, , scope]) => !scope || me.can(scope)).map(([page, word]) => html`<a
          class="nav-link" href=${`#/${page}`} aria-current=${route.page === page ? "page" : undefined}>
          <${Icon} name=${page} /><span>${word}</span></a>`)}</nav>
        <div class="side-foot">
          <${Account} me=${me} />
          <a href="docs">API reference</a>
          ${me.needsKey && html`<button class="link" onClick=${onLeave}>Sign out</button>`}
        </div>
      </header>
      <main id="main" ref=${main} tabindex="-1">${children}</main>
    </div>
    <${Toasts} />`;
}

function Account({ me }) {
  if (!me.needsKey) return html`<span class="muted account">No key needed</span>`;
  return html`<a class="account" href="#/keys" aria-label=${`Signed in as ${nameOfKey(me)} of ${me.tenant}`}>
    <b>${nameOfKey(me)}</b><span class="muted">${me.tenant}</span>
    ${endsSoon(me) && html`<span class="bad">expires ${until(me.expires_at)}</span>`}</a>`;
}

const endsSoon = ({ expires_at: end }) => end !== null && new Date(end) - Date.now() < SOON_MS;
