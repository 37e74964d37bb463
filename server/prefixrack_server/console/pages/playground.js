// The playground: one input, one adapter or several beside each other, and the request as code.
import { useEffect, useState } from "preact/hooks";
import { nameOf } from "../lib/adapter_ref.js";
import { getJson, part, send } from "../lib/api.js";
import { plural, shortDigest } from "../lib/format.js";
import { useAction, useLoad } from "../lib/hooks.js";
import { html } from "../lib/html.js";
import { fieldsOf, inputOf, nameOfField, textsOf, wordsOf } from "../lib/input_form.js";
import { adapterHash } from "../lib/route.js";
import { curlSnippet, pythonSnippet, requestOf } from "../lib/snippets.js";
import { AdapterField, VersionSelect } from "../parts/adapter_field.js";
import { Answer } from "../parts/answer.js";
import { TaskChip } from "../parts/chips.js";
import { CopyButton } from "../parts/copy.js";
import { Icon } from "../parts/icons.js";
import { Empty, Loading, ProblemNotice } from "../parts/notice.js";

const MAX_REFS = 6;
const MOST_LISTED = 100; // of more adapters one is found by typing

export function PlaygroundPage({ query, me }) {
  const lacking = ["predict", "adapters:read"].find((scope) => !me.can(scope));
  return html`<div class="page-head"><div><h1>Playground</h1>
      <p class="lead">One input through one adapter, or several beside each other in a single pass.</p></div></div>
    ${lacking
      ? html`<${Empty} title="Your key cannot use the playground" icon="playground"><p>That needs a key with the scope <code>${lacking}</code>.</p><//>`
      : html`<${Playground} query=${query} me=${me} />`}`;
}

function Playground({ query, me }) {
  const page = useLoad(() => getJson(`v1/adapters?limit=${MOST_LISTED}`), []);
  const adapters = page.data?.data;
  const [refs, setRefs] = useState(() => (query.get("adapters") ?? "").split(",").filter(Boolean));
  useEffect(() => {
    if (!refs.length && adapters?.length) setRefs([adapters[0].name]);
  }, [adapters]);
  return html`<${ProblemNotice} problem=${page.problem} onRetry=${page.reload} />
    ${!adapters && page.isLoading && html`<${Loading} what="Loading adapters" />`}
    ${adapters?.length === 0 && !refs.length && html`<${Empty} title="Nothing to play with yet" icon="playground">
      ${me.can("adapters:write") && html`<a class="button primary" href="#/upload">Upload an adapter</a>`}<//>`}
    ${adapters && refs.length > 0 && html`<${Bench} adapters=${adapters} isAll=${page.data.next_cursor === null} refs=${refs} onRefs=${setRefs} me=${me} />`}`;
}

function Bench({ adapters, isAll, refs, onRefs, me }) {
  const first = refs[0];
  const detail = useLoad(() => getJson(`v1/adapters/${part(first)}`), [first]);
  return html`<${Chooser} adapters=${adapters} isAll=${isAll} refs=${refs} onRefs=${onRefs} />
    <${ProblemNotice} problem=${detail.problem} onRetry=${detail.reload} />
    ${!detail.data && detail.isLoading && html`<${Loading} what="Loading the adapter" />`}
    ${detail.data && html`<${Trial} key=${nameOf(first)} detail=${detail.data} refs=${refs} me=${me} />`}`;
}

function Chooser({ adapters, isAll, refs, onRefs }) {
  const set = (index, ref) => onRefs(refs.map((old, at) => (at === index ? ref : old)));
  const unused = adapters.find(({ name }) => !refs.some((ref) => nameOf(ref) === name));
  const next = unused?.name ?? nameOf(refs[0]);
  return html`<div class="chooser">
    ${refs.map((ref, index) => html`<div class="pick" key=${index}>
      <${AdapterField} adapters=${adapters} isAll=${isAll} place=${index + 1} name=${nameOf(ref)} onName=${(name) => set(index, name)} />
      <${VersionSelect} name=${nameOf(ref)} place=${index + 1} reference=${ref} onRef=${(changed) => set(index, changed)} />
      ${refs.length > 1 && html`<button class="button small icon-only" aria-label=${`Remove ${ref}`}
        onClick=${() => onRefs(refs.filter((_, at) => at !== index))}><${Icon} name="cross" /></button>`}
    </div>`)}
    ${refs.length < MAX_REFS && html`<button class="button" onClick=${() => onRefs([...refs, next])}><${Icon} name="plus" />Compare</button>`}
  </div>`;
}

function Trial({ detail, refs, me }) {
  const fields = fieldsOf(detail);
  const [texts, setTexts] = useState(() => textsOf(detail, fields));
  const [answer, setAnswer] = useState(null);
  const action = useAction(async (input) => {
    const result = await ask([...new Set(refs)], input);
    setAnswer({ input, ...result });
  });
  const submit = (event) => {
    event.preventDefault();
    const input = readInput(fields, texts);
    if (input.problem) setAnswer({ problem: input.problem });
    else action.run(input.value);
  };
  const onKeyDown = (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) submit(event);
  };
  const input = readInput(fields, texts);
  return html`<div class="bench">
    <form class="card bench-form" onSubmit=${submit} onKeyDown=${onKeyDown}>
      ${fields.map((field) => html`<${Field} key=${field.name} field=${field} texts=${texts}
        onValue=${(value) => setTexts({ ...texts, [field.name]: value })} />`)}
      <div class="form-foot">
        <button class="button primary" type="submit" disabled=${action.isBusy}><${Icon} name="playground" />${action.isBusy ? "Running…" : "Run"}</button>
        <span class="muted small-text keys"><kbd>Ctrl</kbd> <kbd>Enter</kbd></span>
        <button class="link push" type="button" onClick=${() => setTexts(textsOf(detail, fields))}>Example</button>
      </div>
      <p class="muted small-text">Up to ${detail.max_tokens} tokens${detail.labels.length ? `, ${plural(detail.labels.length, "label")}` : ""}.</p>
    </form>
    <div class="bench-answers" aria-live="polite">
      <${ProblemNotice} problem=${action.problem ?? answer?.problem} />
      ${answer?.results && !action.problem && html`<div class="answers">${answer.results.map((result) => html`<${Result} result=${result} input=${answer.input} />`)}</div>
        <p class="muted small-text usage">${usageText(answer)}</p>`}
      ${!answer && !action.problem && html`<${Empty} title="The answer comes here" icon="playground">Change the text, then press Run.<//>`}
    </div>
    ${!input.problem && html`<${Code} refs=${[...new Set(refs)]} input=${input.value} needsKey=${me.needsKey} />`}
  </div>`;
}

function readInput(fields, texts) {
  try {
    return { value: inputOf(fields, texts) };
  } catch (error) {
    return { problem: { message: `A field cannot be read as JSON: ${error.message}`, code: "" } };
  }
}

// One adapter's answer comes as it is; where every input failed, its error is its answer.
async function ask(refs, input) {
  const { path, body } = requestOf(refs, [input]);
  const answer = await (await send("POST", path, { body })).json();
  if (refs.length === 1) return { ...answer, results: [{ ref: refs[0], ...answer }] };
  // Answers are named by the version that gave them, refusals by what was asked for.
  const place = (ref) => (refs.includes(ref) ? refs.indexOf(ref) : refs.findIndex((asked) => nameOf(asked) === nameOf(ref)));
  const results = Object.entries(answer.results).map(([ref, result]) => ({ ref, ...result }));
  return { ...answer, results: results.sort((a, b) => place(a.ref) - place(b.ref)) };
}

function usageText({ usage, timings_ms: timings }) {
  const time = timings ? `, ${timings.total.toFixed(1)} ms on the server` : "";
  return `${plural(usage.tokens, "token")} in ${plural(usage.rows, "row")}${time}`;
}

function Result({ result, input }) {
  const { ref, adapter, task, outputs, error } = result;
  return html`<section class="card result" aria-label=${`Answer of ${ref}`}>
    <header class="result-head">
      <h2><a href=${adapterHash(nameOf(ref))}>${ref}</a></h2>
      ${adapter && html`<span class="muted small-text" title=${adapter.digest}>${ref.includes("@") ? "" : `version ${adapter.version} · `}${shortDigest(adapter.digest)}</span>`}
      ${task && html`<span class="push"><${TaskChip} task=${task} /></span>`}
    </header>
    <${Answer} output=${error ? { error } : outputs[0]} input=${input} />
  </section>`;
}

function Field({ field, texts, onValue }) {
  const { name, kind, isOptional } = field;
  const hint = { lines: "one a line", words: "words with spaces between", json: "JSON" }[kind];
  return html`<label class="field"><span class="field-name">${nameOfField(name)}
      ${hint && html` <span class="muted">${hint}</span>`}${isOptional && html` <span class="muted">optional</span>`}</span>
    <${CONTROLS[kind] ?? TextControl} field=${field} value=${texts[name] ?? ""} texts=${texts} onChange=${(event) => onValue(event.currentTarget.value)} />
  </label>`;
}

const TextControl = ({ field: { kind, isLong }, value, onChange }) => html`<textarea dir="auto" rows=${isLong ? 7 : kind === "text" ? 2 : 4}
  spellcheck=${kind !== "json"} value=${value} onInput=${onChange}></textarea>`;
const NumberControl = ({ value, onChange }) => html`<input type="number" min="0" step="1" value=${value} onInput=${onChange} />`;

// One of the words beside it, by its place, as long as there is such a word.
function WordControl({ value, texts, onChange }) {
  const words = wordsOf(texts.tokens ?? "");
  if (!(value in words)) words[value] = "(no such word)";
  return html`<select value=${value} onChange=${onChange}>${Object.entries(words).map(([place, word]) => html`<option value=${place}>${place}: ${word}</option>`)}</select>`;
}

const CONTROLS = { number: NumberControl, word: WordControl };

function Code({ refs, input, needsKey }) {
  const [language, setLanguage] = useState("curl");
  const code = language === "curl" ? curlSnippet(refs, input, needsKey) : pythonSnippet(refs, input);
  return html`<section class="card bench-code" aria-label="The request as code">
    <div class="code-head">
      <div class="switch" role="group" aria-label="Language">${["curl", "Python"].map((word) => html`<button type="button"
        aria-pressed=${language === word} onClick=${() => setLanguage(word)}>${word}</button>`)}</div>
      <${CopyButton} text=${code} label=${`Copy ${language}`} what=${`${language} copied`} />
    </div>
    <pre tabindex="0"><code>${code}</code></pre>
  </section>`;
}
