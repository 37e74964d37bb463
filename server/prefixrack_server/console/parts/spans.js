// A text with marked spans. Offsets count code points, as the API does, not the UTF-16 units of JavaScript's strings.
import { html } from "../lib/html.js";
import { percent } from "../lib/format.js";

const NUM_HUES = 8;

// Labels of one kind (person-artist, person-director) have one colour.
export function hueOf(label, labels) {
  const kinds = [...new Set(labels.map(kindOf))];
  return kinds.indexOf(kindOf(label)) % NUM_HUES;
}

const kindOf = (label) => label.split(/[-/]/)[0];

export function MarkedText({ text, spans }) {
  const letters = [...text];
  const cut = (start, stop) => letters.slice(start, stop).join("");
  const labels = spans.map(({ label }) => label);
  const pieces = [];
  let end = 0;
  for (const span of [...spans].sort((a, b) => a.start - b.start)) {
    if (span.start < end) continue; // one inside another: the list below has it
    pieces.push(cut(end, span.start));
    pieces.push(html`<mark class=${`span hue-${hueOf(span.label, labels)}`} title=${titleOf(span)}>
      ${cut(span.start, span.end)}<span class="span-label">${span.label}</span></mark>`);
    end = span.end;
  }
  pieces.push(cut(end));
  return html`<p class="marked">${pieces}</p>`;
}

const titleOf = ({ label, score }) => (score === undefined ? label : `${label}, ${percent(score)}`);
