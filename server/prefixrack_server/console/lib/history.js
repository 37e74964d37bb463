// Lines of the audit log in words.
import { percent } from "./format.js";

// {what, how}: how says more where there is more to say.
export function wordsOf({ action, target, detail }) {
  const words = WORDS[action];
  return words ? words(target.split("@")[1] ?? target, detail) : { what: `${action} ${target}` };
}

const WORDS = {
  "version.add": (version) => ({ what: `Version ${version} was uploaded` }),
  "version.delete": (version) => ({ what: `Version ${version} was deleted` }),
  "version.keep": (version, { keep }) => ({ what: `Version ${version} is ${keep ? "kept on the device" : "no longer kept on the device"}` }),
  "adapter.delete": () => ({ what: "The adapter was deleted" }),
  "alias.put": (alias, { before, after }) => ({ what: before ? `${alias} was changed` : `${alias} was made`, how: changeOf(before ?? {}, after) }),
  "alias.rollback": (alias, { before, after }) => ({ what: `${alias} was rolled back`, how: changeOf(before, after) }),
  "alias.delete": (alias) => ({ what: `${alias} was deleted` }),
  "alias.gates": (alias, { after }) => ({ what: `Gates of ${alias}`, how: after.length ? after.join(", ") : "none any more" }),
};

function changeOf(before, after) {
  const changes = [];
  if (before.version !== after.version) changes.push(before.version ? `version ${before.version} → ${after.version}` : `version ${after.version}`);
  if (JSON.stringify(before.canary) !== JSON.stringify(after.canary)) changes.push(canaryOf(after.canary));
  if (before.shadow_version !== after.shadow_version) changes.push(after.shadow_version ? `version ${after.shadow_version} as shadow` : "shadow ended");
  return changes.join(", ") || "nothing moved";
}

const canaryOf = (canary) => (canary ? `${percent(canary.share, 0)} to version ${canary.version}` : "canary ended");
