// The door: asks for the API key where the server wants one.
import { useRef, useState } from "preact/hooks";
import { html } from "../lib/html.js";
import { writeKey } from "../lib/session.js";
import { Logo } from "../parts/shell.js";

export function SignIn({ refusal, onKey }) {
  const input = useRef(null);
  const [problem, setProblem] = useState(refusal);
  const submit = (event) => {
    event.preventDefault();
    const key = input.current.value.trim();
    if (!key) {
      setProblem("Paste your API key first.");
      input.current.focus();
      return;
    }
    writeKey(key);
    onKey();
  };
  return html`<main class="door">
    <form class="card door-card" onSubmit=${submit} novalidate>
      <${Logo} />
      <h1>Sign in</h1>
      <p class="muted">With your API key. It stays in this tab and is forgotten when you close it.</p>
      <label class="field"><span class="field-name">API key</span>
        <input ref=${input} type="password" autocomplete="off" spellcheck=${false} placeholder="pr_…"
          aria-invalid=${problem ? "true" : undefined} aria-describedby=${problem ? "door-problem" : undefined} autofocus />
      </label>
      ${problem && html`<p id="door-problem" class="field-problem" role="alert">${problem}</p>`}
      <button class="button primary wide" type="submit">Continue</button>
      <p class="muted small-text">The server prints an admin key at its first start; <code>prefixrack serve --new-admin-key</code> makes another.</p>
    </form>
  </main>`;
}
