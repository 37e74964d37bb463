// What the console knows of the server it talks to: whether it asks for keys, and which parts of the API it has.
import { getJson, send } from "./api.js";
import { readKey } from "./session.js";

const DEFAULT_TENANT = "default"; // whose everybody is where no keys are asked for

// Raises the server's refusal where the key, or none, is not accepted.
export async function enter() {
  const document = await getJson("openapi.json");
  await send("GET", "v1/adapters?limit=1");
  const has = (path) => path in document.paths;
  return {
    hasKey: readKey() !== null,
    tenant: readKey() === null ? DEFAULT_TENANT : await ownTenant(),
    hasTenants: has("/admin/v1/tenants/{tenant}"),
    hasAudit: has("/admin/v1/audit"),
    hasUsage: has("/admin/v1/usage"),
  };
}

// Keys are listed to a tenant's admins alone; for others it stays unknown.
async function ownTenant() {
  try {
    const { data } = await getJson("admin/v1/keys?limit=1");
    return data[0]?.tenant ?? null;
  } catch (problem) {
    if (problem.status === 403) return null;
    throw problem;
  }
}
