// Whom the console speaks for, as the server sees it, and what that key may do.
import { getJson } from "./api.js";

const ADMINS = ["tenant:admin", "admin"]; // each may do everything in its tenant

// Raises the server's refusal where the key, or none, is not accepted.
export async function enter() {
  const { scopes, ...facts } = await getJson("v1/whoami");
  const has = (scope) => scopes.includes(scope);
  return {
    ...facts,
    scopes,
    needsKey: facts.authenticated_by !== "none",
    can: (scope) => has(scope) || (scope !== "admin" && ADMINS.some(has)),
  };
}

export const nameOfKey = ({ key_name: name, key_id: id }) => name ?? id;
