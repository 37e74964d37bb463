// A button that copies a text, and says that it did.
import { html } from "../lib/html.js";
import { Icon } from "./icons.js";
import { toast } from "./toast.js";

export function CopyButton({ text, label = "Copy", what = "Copied" }) {
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
      toast(what);
    } catch {
      toast("The browser does not let pages copy here: select the text instead");
    }
  };
  return html`<button type="button" class="button small" onClick=${copy}><${Icon} name="copy" />${label}</button>`;
}
