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

// `notes` are no answers, and are drawn so; where one lies on a span, the span is shown.
export function MarkedText({ text, spans, notes = [] }) {
  const letters = [...text];
  const cut = (start, stop) => letters.slice(start, stop).join("");
  const labels = spans.map(({ label }) => label);
  const pieces = [];
  let end = 0;
  const free = notes.filter((note) => !spans.some((span) => span.start < note.end && note.start < span.end));
  for (const span of [...spans, ...free].sort((a, b) => a.start - b.start)) {
    if (span.start < end) continue; // one inside another: the list below has it
    pieces.push(cut(end, span.start));
    const look = free.includes(span) ? "span-note" : `hue-${hueOf(span.label, labels)}`;
    pieces.push(html`<mark class=${`span ${look}`} title=${titleOf(span)} dir="auto">
      ${cut(span.start, span.end)}${" "}<span class="span-label">${span.label}</span></mark>`);
    end = span.end;
  }
  pieces.push(cut(end));
  return html`<p class="marked" dir="auto">${pieces}</p>`;
}

const titleOf = ({ label, score }) => (score === undefined ? label : `${label}, ${percent(score)}`);
