// An adapter as the API writes it: name, name@alias, name@7; one of another tenant, tenant:name.
export const nameOf = (ref) => ref.split("@")[0];

// Whose the adapter is, and its name there.
export function ownerOf(name, ownTenant) {
  const [tenant, own] = name.includes(":") ? name.split(":") : [ownTenant, name];
  return { tenant, name: own };
}

export const nameFrom = (tenant, name, ownTenant) => (tenant === ownTenant ? name : `${tenant}:${name}`);
