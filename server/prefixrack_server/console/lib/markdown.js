// The Markdown of model cards, as elements: headings, lists, tables, code, links to the web. No HTML gets through.
import { html } from "./html.js";

const INLINE = /(`[^`]+`)|\*\*([^*]+)\*\*|\[([^\]]+)\]\((https?:\/\/[^\s)]+)\)/g;

export function Markdown({ text }) {
  return html`<div class="prose">${blocks(withoutFrontMatter(text).split("\n"))}</div>`;
}

const withoutFrontMatter = (text) => text.replace(/^---\n.*?\n---\n/s, "");

function blocks(lines) {
  const found = [];
  for (let at = 0; at < lines.length; ) {
    const line = lines[at];
    const take = (isIn) => {
      const start = at;
      while (at < lines.length && isIn(lines[at])) at += 1;
      return lines.slice(start, at);
    };
    if (!line.trim()) at += 1;
    else if (line.startsWith("```")) {
      at += 1;
      found.push(html`<pre tabindex="0"><code>${take((next) => !next.startsWith("```")).join("\n")}</code></pre>`);
      at += 1;
    } else if (/^#{1,6} /.test(line)) {
      found.push(heading(line));
      at += 1;
    } else if (line.startsWith("|")) found.push(table(take((next) => next.startsWith("|"))));
    else if (/^[-*] /.test(line)) found.push(list(take((next) => /^([-*] |\s+\S)/.test(next))));
    else found.push(html`<p>${inline(take((next) => next.trim() && !/^(#|\||```|[-*] )/.test(next)).join(" "))}</p>`);
  }
  return found;
}

// The page has its own first and second headings: a card's begin at the third.
function heading(line) {
  const level = line.indexOf(" ");
  const content = inline(line.slice(level + 1));
  if (level === 1) return html`<h3 class="prose-title">${content}</h3>`;
  return level === 2 ? html`<h4>${content}</h4>` : html`<h5>${content}</h5>`;
}

function list(lines) {
  const items = [];
  for (const line of lines) {
    if (/^[-*] /.test(line)) items.push(line.slice(2));
    else items[items.length - 1] += ` ${line.trim()}`;
  }
  return html`<ul>${items.map((item) => html`<li>${inline(item)}</li>`)}</ul>`;
}

function table(lines) {
  const rows = lines.map((line) => line.trim().slice(1, -1).split("|").map((cell) => cell.trim()));
  const body = rows.filter((row, index) => index > 0 && !row.every((cell) => /^:?-+:?$/.test(cell)));
  return html`<div class="scroll" tabindex="0" role="region" aria-label="Table of the card"><table class="plain">
    <thead><tr>${rows[0].map((cell) => html`<th scope="col">${inline(cell)}</th>`)}</tr></thead>
    <tbody>${body.map((row) => html`<tr>${row.map((cell) => html`<td>${inline(cell)}</td>`)}</tr>`)}</tbody>
  </table></div>`;
}

function inline(text) {
  const parts = [];
  let end = 0;
  for (const match of text.matchAll(INLINE)) {
    parts.push(text.slice(end, match.index));
    const [whole, code, strong, label, url] = match;
    if (code) parts.push(html`<code>${code.slice(1, -1)}</code>`);
    else if (strong) parts.push(html`<strong>${strong}</strong>`);
    else parts.push(html`<a href=${url} rel="noreferrer" target="_blank">${label}</a>`);
    end = match.index + whole.length;
  }
  parts.push(text.slice(end));
  return parts;
}
