// Small words with a meaning: tasks, aliases, where a version's tensors are.
import { html } from "../lib/html.js";

const TASKS = {
  "text-classification": "Classification",
  "token-classification": "Token labels",
  "question-answering": "Question answering",
  "multiple-choice": "Multiple choice",
  "text-embedding": "Embedding",
};
const TIERS = {
  resident: ["On device", "Its tensors are in device memory"],
  loading: ["Loading", "It is being loaded onto the device"],
  host: ["In host memory", "It comes to the device by a copy"],
  absent: ["On disk", "It is loaded by its first request"],
  failed: ["Failed to load", "It could not be loaded"],
};

export const TaskChip = ({ task }) => html`<span class="chip">${TASKS[task] ?? task}</span>`;

export function AliasChip({ alias, version }) {
  const kind = alias === "production" ? "chip-good" : alias === "latest" ? "" : "chip-accent";
  return html`<span class=${`chip ${kind}`}>${alias}${version !== undefined && html`<b> ${version}</b>`}</span>`;
}

export const ScopeChips = ({ scopes }) => html`<span class="chips">${scopes.map((scope) => html`<span class=${`chip ${scope.includes("admin") ? "chip-accent" : ""}`}>${scope}</span>`)}</span>`;

export function TierChip({ residency }) {
  if (!residency) return html`<span class="muted">–</span>`;
  const [word, meaning] = TIERS[residency.state] ?? [residency.state, ""];
  return html`<span class=${`tier tier-${residency.state}`} title=${meaning}>
    <span class="tier-dot" aria-hidden="true"></span>${word}${residency.keep_resident && html`<span class="tier-kept">kept</span>`}
  </span>`;
}
