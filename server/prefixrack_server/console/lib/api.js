// Requests to the public API with the user's key. A refusal becomes a Problem that says what the server said.
import { readKey } from "./session.js";

// The page is at …/console, whatever a proxy puts in front: the API is beside it.
const ROOT = new URL("./", document.baseURI);
export const KEY_REFUSED = "prefixrack:key-refused";

export class Problem extends Error {
  constructor(status, document) {
    super(document.detail || `The server answered ${status}.`);
    this.status = status;
    this.code = document.code || "unknown";
    this.requestId = document.request_id;
    this.errors = document.errors || [];
  }
}

export const urlOf = (path) => new URL(path, ROOT);
export const part = encodeURIComponent;

export function authorization() {
  const key = readKey();
  return key ? { Authorization: `Bearer ${key}` } : {};
}

export async function send(method, path, { body, headers = {}, signal } = {}) {
  const json = body === undefined ? {} : { "Content-Type": "application/json" };
  const response = await reach(path, {
    method,
    signal,
    headers: { Accept: "application/json", ...authorization(), ...json, ...headers },
    body: body === undefined ? undefined : JSON.stringify(body),
    cache: "no-store",
  });
  if (!response.ok) throw await problemOf(response);
  return response;
}

async function reach(path, options) {
  try {
    return await fetch(urlOf(path), options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, { detail: "The server cannot be reached. Is it running?", code: "unreachable" });
  }
}

export async function problemOf(response) {
  const document = await response.json().catch(() => ({}));
  return refusal(response.status, document);
}

// What every refusal passes through: one of the key sends the whole console back to its door.
export function refusal(status, document) {
  if (status === 401) dispatchEvent(new CustomEvent(KEY_REFUSED, { detail: document.detail }));
  return new Problem(status, document);
}

export const getJson = async (path, options) => (await send("GET", path, options)).json();

export async function getAll(path, limit = 100) {
  const found = [];
  for (let cursor = ""; cursor !== null; ) {
    const joint = path.includes("?") ? "&" : "?";
    const page = await getJson(`${path}${joint}limit=${limit}${cursor ? `&cursor=${part(cursor)}` : ""}`);
    found.push(...page.data);
    cursor = page.next_cursor ?? null;
  }
  return found;
}
