// Short messages about what was done, read out too.
import { useEffect, useState } from "preact/hooks";
import { html } from "../lib/html.js";
import { Icon } from "./icons.js";

const SHOWN_MS = 5000;
const EVENT = "prefixrack:toast";

export const toast = (text) => dispatchEvent(new CustomEvent(EVENT, { detail: text }));

export function Toasts() {
  const [shown, setShown] = useState([]);
  useEffect(() => {
    const add = ({ detail }) => {
      const entry = { text: detail };
      setShown((before) => [...before, entry]);
      setTimeout(() => setShown((before) => before.filter((other) => other !== entry)), SHOWN_MS);
    };
    addEventListener(EVENT, add);
    return () => removeEventListener(EVENT, add);
  }, []);
  return html`<div class="toasts" role="status" aria-live="polite">
    ${shown.map(({ text }) => html`<div class="toast"><${Icon} name="check" />${text}</div>`)}
  </div>`;
}
