// Two manifests, field by field: what was changed, added, taken away.
export function diffManifests(before, after) {
  const [left, right] = [flatten(before), flatten(after)];
  const paths = [...new Set([...left.keys(), ...right.keys()])].sort();
  return paths
    .filter((path) => JSON.stringify(left.get(path)) !== JSON.stringify(right.get(path)))
    .map((path) => ({ path, before: left.get(path), after: right.get(path) }));
}

// Lists are leaves: of labels the order counts, and a list of metrics is read as a whole.
function flatten(value, path = "", found = new Map()) {
  if (value !== null && typeof value === "object" && !Array.isArray(value)) {
    for (const [key, inner] of Object.entries(value)) flatten(inner, path ? `${path}.${key}` : key, found);
  } else {
    found.set(path, value);
  }
  return found;
}

// Of two lists, what only one of them has; null for anything else.
export function diffLists(before, after) {
  if (!Array.isArray(before) || !Array.isArray(after)) return null;
  return { removed: without(before, after), added: without(after, before) };
}

function without(entries, others) {
  const known = new Set(others.map((entry) => JSON.stringify(entry)));
  return entries.filter((entry) => !known.has(JSON.stringify(entry)));
}
