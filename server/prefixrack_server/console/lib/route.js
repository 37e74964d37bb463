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

const pageOf = (page) => (tenant, ownTenant) => (tenant === ownTenant ? page : `${page}?tenant=${encodeURIComponent(tenant)}`);

export const adaptersHash = pageOf("#/adapters");
export const uploadHash = pageOf("#/upload");
export const adapterHash = (name) => `#/adapters/${encodeURIComponent(name)}`;
export const playgroundHash = (refs) => `#/playground?adapters=${refs.map(encodeURIComponent).join(",")}`;
