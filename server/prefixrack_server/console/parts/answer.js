// One output, whatever the task: labels as bars, spans and answers in the text they came from.
import { html } from "../lib/html.js";
import { percent } from "../lib/format.js";
import { textBehind } from "../lib/input_form.js";
import { Bars } from "./bars.js";
import { CopyButton } from "./copy.js";
import { MarkedText, hueOf } from "./spans.js";

const MAX_BARS = 6;
const MAX_ANSWERS = 5;
const MAX_STRIPES = 128;

export function Answer({ output, input }) {
  const kind = KINDS.find(([field]) => field in output);
  return html`<div class="answer">
    ${kind ? html`<${kind[1]} output=${output} input=${input} />` : html`<pre>${JSON.stringify(output, null, 1)}</pre>`}
    ${output.truncated && html`<p class="muted small-text">The input was cut short to what the adapter takes.</p>`}
    ${output.windows > 1 && html`<p class="muted small-text">Read in ${output.windows} windows.</p>`}
  </div>`;
}

function Failed({ output }) {
  return html`<div class="answer-failed"><p>${output.error.message}</p><code>${output.error.code}</code></div>`;
}

const bar = ({ label, score }, index) => ({ label, value: score, isFirst: index === 0 });

function Label({ output }) {
  const { scores } = output;
  return html`<p class="headline"><b>${output.label}</b><span class="muted">${percent(output.score)}</span></p>
    <${Bars} entries=${scores.slice(0, MAX_BARS).map(bar)} label="Scores by label" />
    <${More} entries=${scores.slice(MAX_BARS)} />`;
}

function Labels({ output }) {
  const chosen = new Set(output.labels.map(({ label }) => label));
  const entry = ({ label, score }) => ({ label, value: score, isFirst: chosen.has(label) });
  return html`<p class="headline">${chosen.size ? html`<b>${[...chosen].join(", ")}</b>` : html`<span class="muted">No label is over the threshold</span>`}</p>
    <${Bars} entries=${output.scores.slice(0, MAX_BARS).map(entry)} label="Scores by label" />
    <${More} entries=${output.scores.slice(MAX_BARS)} />`;
}

function More({ entries }) {
  if (!entries.length) return null;
  return html`<details class="more-labels"><summary>${entries.length} more</summary>
    <${Bars} entries=${entries.map(({ label, score }) => ({ label, value: score }))} label="Further scores" /></details>`;
}

const Value = ({ output }) => html`<p class="headline"><b class="figure">${output.value.toFixed(4)}</b></p>`;

function Spans({ output, input }) {
  const text = textBehind(input);
  const labels = output.spans.map(({ label }) => label);
  return html`<${MarkedText} text=${text} spans=${output.spans} notes=${predicateOf(input)} />
    ${output.spans.length === 0 && html`<p class="muted">No spans in this text.</p>`}
    <ul class="span-list" aria-label="Spans">${output.spans.map((span) => html`<li>
      <span class=${`span-key hue-${hueOf(span.label, labels)}`} aria-hidden="true"></span>
      <b dir="auto">${span.text}</b><span class="muted">${span.label}</span><span class="figure">${percent(span.score)}</span></li>`)}</ul>`;
}

// Where the word stands whose roles were asked for.
function predicateOf({ tokens, predicate_index: index }) {
  if (!tokens || index === undefined) return [];
  const length = (text) => [...text].length;
  const start = tokens.slice(0, index).reduce((sum, word) => sum + length(word) + 1, 0);
  return [{ start, end: start + length(tokens[index]), label: "predicate" }];
}

function QuestionAnswer({ output, input }) {
  const { answer, answers, no_answer_score: none } = output;
  const entries = answers.slice(0, MAX_ANSWERS).map(({ text, score }) => ({ label: text, value: score, isFirst: text === answer?.text }));
  if (none > 0.0005) entries.push({ label: "(no answer)", value: none, isFirst: answer === null });
  entries.sort((a, b) => b.value - a.value);
  const [nearest] = answers;
  return html`<p class="headline">${answer ? html`<b dir="auto">${answer.text}</b><span class="muted">${percent(answer.score)}</span>` : html`<span class="muted">No answer in this context</span>`}</p>
    ${!answer && nearest && html`<p class="muted small-text">Nearest to one is “<bdi>${nearest.text}</bdi>” (${percent(nearest.score)}). The adapter is not sure enough of it: the threshold is its own, found in training.</p>`}
    <${MarkedText} text=${textBehind(input)} spans=${answer ? [{ ...answer, label: "answer" }] : []} notes=${!answer && nearest ? [{ ...nearest, label: "nearest" }] : []} />
    <${Bars} entries=${entries} label="Best answers" />`;
}

function Choice({ output, input }) {
  const entries = output.scores.map((value, index) => ({
    label: input.choices?.[index] ?? `Choice ${index + 1}`,
    value,
    isFirst: index === output.choice,
  }));
  return html`<p class="headline"><b>${entries[output.choice].label}</b></p><${Bars} entries=${entries} label="Scores by choice" />`;
}

function Judged({ output }) {
  const entries = output.judged.map(({ text, label, score }) => ({ label: `${text}: ${label}`, value: score }));
  return html`<${Bars} entries=${entries} label="Judged answers" />`;
}

function Entities({ output }) {
  return html`<p class="headline"><b>${output.entity}</b><span class="muted">${percent(output.score)}</span></p>
    <${Bars} entries=${output.entities.slice(0, MAX_BARS).map(bar)} label="Scores by entity" />`;
}

function Embedding({ output }) {
  const { embedding } = output;
  const length = Math.hypot(...embedding);
  const highest = Math.max(...embedding.map(Math.abs));
  const stripes = embedding.slice(0, MAX_STRIPES);
  return html`<p class="headline"><b>${embedding.length} dimensions</b><span class="muted">length ${length.toFixed(3)}</span></p>
    <svg class="stripes" viewBox=${`0 0 ${stripes.length} 10`} preserveAspectRatio="none" role="img" aria-label=${`The first ${stripes.length} dimensions`}>
      ${stripes.map((value, index) => html`<rect x=${index} y="0" width="1.02" height="10" class=${value < 0 ? "stripe-below" : "stripe-above"} opacity=${Math.abs(value) / highest} />`)}
    </svg>
    <${CopyButton} text=${JSON.stringify(embedding)} label="Copy vector" what="Vector copied" />`;
}

// The field that tells an output's kind; the first that is there counts.
const KINDS = [
  ["error", Failed],
  ["spans", Spans],
  ["no_answer_score", QuestionAnswer],
  ["choice", Choice],
  ["embedding", Embedding],
  ["judged", Judged],
  ["entity", Entities],
  ["labels", Labels],
  ["label", Label],
  ["value", Value],
];
