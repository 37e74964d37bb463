// A request as code to copy. The key is named by its variable, never written out.
import { urlOf } from "./api.js";

export function curlSnippet(refs, inputs, needsKey) {
  const { path, body } = requestOf(refs, inputs);
  const key = needsKey ? `  -H "Authorization: Bearer $PREFIXRACK_API_KEY" \\\n` : "";
  return (
    `curl -s ${shellQuote(urlOf(path).href)} \\\n${key}  -H 'Content-Type: application/json' \\\n` +
    `  -d ${shellQuote(JSON.stringify(body))}`
  );
}

export function pythonSnippet(refs, inputs) {
  const url = urlOf("./").href.replace(/\/$/, "");
  const lines = ["from prefixrack import Client", "", `# the key is read from PREFIXRACK_API_KEY`];
  lines.push(`with Client(${pythonValue(url)}) as client:`);
  if (refs.length === 1) {
    lines.push(`    answer = client.predict(${pythonValue(refs[0])}, ${pythonValue(inputs)})`);
    lines.push("    print(answer.outputs[0])");
  } else {
    lines.push(`    answer = client.fan_out(${pythonValue(refs)}, ${pythonValue(inputs)})`);
    lines.push("    for adapter, result in answer.results.items():", "        print(adapter, result)");
  }
  return lines.join("\n");
}

// What the playground itself sends.
export function requestOf(refs, inputs) {
  if (refs.length === 1) return { path: `v1/${refInPath(refs[0])}/predict`, body: { inputs } };
  return { path: "v1/predict", body: { adapters: refs, inputs } };
}

const shellQuote = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

function pythonValue(value) {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(pythonValue).join(", ")}]`;
  if (typeof value === "object") {
    return `{${Object.entries(value).map(([key, inner]) => `${JSON.stringify(key)}: ${pythonValue(inner)}`).join(", ")}}`;
  }
  return JSON.stringify(value); // strings and numbers are written alike in both
}

// name@2 and tenant:name are legal in a path as they are.
const refInPath = (ref) => encodeURIComponent(ref).replaceAll("%40", "@").replaceAll("%3A", ":");
