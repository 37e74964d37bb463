// The browser's own modal dialog: it keeps the focus, and Escape closes it.
import { useLayoutEffect, useRef } from "preact/hooks";
import { html } from "../lib/html.js";

export function Dialog({ title, onClose, children }) {
  const ref = useRef(null);
  const leave = useRef(onClose);
  leave.current = onClose;
  // Before the next paint: what has the focus now is what gets it back.
  useLayoutEffect(() => {
    const dialog = ref.current;
    const opener = document.activeElement;
    const onClosed = () => leave.current();
    dialog.addEventListener("close", onClosed);
    dialog.showModal();
    return () => {
      dialog.removeEventListener("close", onClosed);
      dialog.close();
      if (opener?.isConnected) opener.focus();
    };
  }, []);
  return html`<dialog ref=${ref} class="dialog" aria-labelledby="dialog-title">
    <h2 id="dialog-title">${title}</h2>
    ${children}
  </dialog>`;
}

// A question before something is done; `isGentle` where it can be taken back.
export function Confirm({ title, text, verb, isGentle, action, onClose, onDone }) {
  const run = async () => {
    if ((await action.run()) !== undefined) onDone();
  };
  return html`<${Dialog} title=${title} onClose=${onClose}>
    <p>${text}</p>
    ${action.problem && html`<p class="field-problem" role="alert">${action.problem.message}</p>`}
    <div class="dialog-buttons">
      <button class="button" onClick=${onClose}>Cancel</button>
      <button class=${`button ${isGentle ? "primary" : "danger"}`} onClick=${run} disabled=${action.isBusy}>${verb}</button>
    </div>
  <//>`;
}
