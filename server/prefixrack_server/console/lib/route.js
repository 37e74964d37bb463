// Addresses within the console: #/adapters/ner?versions=1,2. Texts and keys are never in them.
import { useEffect, useState } from "preact/hooks";

export function parseRoute(hash) {
  const [path, query = ""] = hash.replace(/^#\/?/, "").split("?");
  const [page = "", ...rest] = path.split("/").map(decodeURIComponent);
  return { page: page || "adapters", rest, query: new URLSearchParams(query) };
}

export function useRoute() {
  const [route, setRoute] = useState(() => parseRoute(location.hash));
  useEffect(() => {
    const follow = () => setRoute(parseRoute(location.hash));
    addEventListener("hashchange", follow);
    return () => removeEventListener("hashchange", follow);
  }, []);
  return route;
}

export const goTo = (hash) => {
  location.hash = hash;
};

// Says in the address what the page shows already: no other page is opened, and going back leads here.
export const noteAddress = (hash) => history.replaceState(null, "", hash);

export const adaptersHash = (tenant, ownTenant) => (tenant === ownTenant ? "#/adapters" : `#/adapters?tenant=${encodeURIComponent(tenant)}`);
export const uploadHash = (tenant, ownTenant) => (tenant === ownTenant ? "#/upload" : `#/upload?tenant=${encodeURIComponent(tenant)}`);
export const adapterHash = (name) => `#/adapters/${encodeURIComponent(name)}`;
export const playgroundHash = (refs) => `#/playground?adapters=${refs.map(encodeURIComponent).join(",")}`;
