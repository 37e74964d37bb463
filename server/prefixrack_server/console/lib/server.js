// What the console knows of the server it talks to: whether it asks for keys, and which parts of the API it has.
import { getJson, send } from "./api.js";
import { readKey } from "./session.js";

// Raises the server's refusal where the key, or none, is not accepted.
export async function enter() {
  const document = await getJson("openapi.json");
  await send("GET", "v1/adapters?limit=1");
  const has = (path) => path in document.paths;
  return {
    hasKey: readKey() !== null,
    hasTenants: has("/admin/v1/tenants/{tenant}"),
    hasAudit: has("/admin/v1/audit"),
    hasUsage: has("/admin/v1/usage"),
  };
}
