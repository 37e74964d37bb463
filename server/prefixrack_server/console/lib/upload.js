// From dropped files to an upload: what is there, what its manifest says, and the request with its progress.
import { authorization, part, refusal, urlOf } from "./api.js";
import { readEntries } from "./tar.js";

export const FILES = { "adapter.json": "manifest", "adapter.safetensors": "tensors", "README.md": "card" };

// Files out of a drop, folders too.
export async function droppedFiles(items) {
  // Read before anything is awaited: the browser empties the list then. What is no entry is a file of a script's making.
  const found = [...items].map((item) => ({ entry: item.webkitGetAsEntry(), file: item.getAsFile() }));
  return (await Promise.all(found.map(({ entry, file }) => (entry ? filesOf(entry) : file ?? [])))).flat();
}

async function filesOf(entry) {
  if (entry.isFile) return [await new Promise((resolve, reject) => entry.file(resolve, reject))];
  const reader = entry.createReader();
  const found = [];
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) return (await Promise.all(found.map(filesOf))).flat();
    found.push(...some);
  }
}

// {kind, files, manifest, sizeBytes}. Raises an Error that says what is missing.
export async function readSelection(files) {
  const tar = files.find(({ name }) => name.endsWith(".tar"));
  if (tar) {
    const { manifest } = await readEntries(tar.stream(), { "adapter.json": "manifest" });
    return { kind: "tar", files: [tar], manifest: parseManifest(manifest), sizeBytes: tar.size };
  }
  const bundle = files.filter(({ name }) => FILES[name]);
  const missing = ["adapter.json", "adapter.safetensors"].filter((wanted) => !bundle.some(({ name }) => name === wanted));
  if (missing.length) {
    const seen = files.map(({ name }) => name).slice(0, 4).join(", ") || "nothing";
    throw new Error(`${missing.join(" and ")} ${missing.length > 1 ? "are" : "is"} missing; there was ${seen}. Drop a bundle's folder, its files, or a tar of them.`);
  }
  const manifest = await bundle.find(({ name }) => name === "adapter.json").text();
  return { kind: "files", files: bundle, manifest: parseManifest(manifest), sizeBytes: bundle.reduce((sum, { size }) => sum + size, 0) };
}

function parseManifest(text) {
  if (text === undefined) throw new Error("There is no adapter.json in the tar.");
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Error(`adapter.json is not valid JSON: ${error.message}`);
  }
}

// XMLHttpRequest, since fetch does not tell how much was sent.
export function sendBundle(name, selection, onProgress) {
  const request = new XMLHttpRequest();
  request.open("POST", urlOf(`admin/v1/adapters/${part(name)}/versions`));
  for (const [header, value] of Object.entries(authorization())) request.setRequestHeader(header, value);
  if (selection.kind === "tar") request.setRequestHeader("Content-Type", "application/x-tar");
  request.upload.onprogress = ({ loaded, total }) => onProgress(loaded / total);
  return new Promise((resolve, reject) => {
    request.onload = () => {
      const document = parseAnswer(request.responseText);
      if (request.status < 300) resolve(document);
      else reject(refusal(request.status, document));
    };
    request.onerror = () => reject(refusal(0, { detail: "The connection broke before the server answered.", code: "unreachable" }));
    request.send(bodyOf(selection));
  });
}

function bodyOf({ kind, files }) {
  if (kind === "tar") return files[0];
  const form = new FormData();
  for (const file of files) form.append(FILES[file.name], file, file.name);
  return form;
}

function parseAnswer(text) {
  try {
    return JSON.parse(text);
  } catch {
    return {};
  }
}

// What the server checks, in its order, and the code of each refusal.
const CHECKS = [
  ["The archive and its files can be read", ["unsafe_archive", "bundle_too_large", "payload_too_large"]],
  ["The manifest follows the format", ["invalid_manifest", "label_mismatch"]],
  ["It was made for this backbone", ["backbone_mismatch"]],
  ["Tensors have the names, shapes and types that the manifest says", ["malformed_bundle", "tensor_mismatch"]],
  ["All values are finite", ["nonfinite_tensor"]],
  ["An example goes through and gives an answer", ["probe_failed", "accuracy_gate"]],
];

// [{text, state}]: passed, failed, open. A refusal that is none of a bundle's checks leaves all open.
export function reportOf(problem) {
  const failed = problem ? CHECKS.findIndex(([, codes]) => codes.includes(problem.code)) : CHECKS.length;
  return CHECKS.map(([text], index) => ({
    text,
    state: index < failed ? "passed" : index === failed ? "failed" : "open",
  }));
}
