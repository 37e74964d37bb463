// Line icons, 24 by 24: beside a word, or in a button whose name says what it does.
import { html } from "../lib/html.js";

const PATHS = {
  adapters: "M4 6h16M4 12h10M4 18h13",
  playground: "M8 5v14l11-7z",
  live: "M3 12h4l3-8 4 16 3-8h4",
  upload: "M12 16V4M7 9l5-5 5 5M4 20h16",
  keys: "M15 9a4 4 0 1 1-1.2-2.8A4 4 0 0 1 15 9zm-1 2.5L20 18m-3-3 2-2",
  search: "M11 4a7 7 0 1 1 0 14 7 7 0 0 1 0-14zm5 12 4 4",
  copy: "M9 9h11v11H9zM5 15H4V4h11v1",
  check: "M5 13l4 4L19 7",
  cross: "M6 6l12 12M18 6 6 18",
  warning: "M12 4 2.5 20h19zM12 10v4m0 3v.01",
  back: "M15 5l-7 7 7 7",
  file: "M6 3h8l5 5v13H6zM14 3v5h5",
  plus: "M12 5v14M5 12h14",
  download: "M12 4v12m-5-5 5 5 5-5M4 20h16",
  pin: "M9 4h6l-1 6 3 3v2H7v-2l3-3zM12 15v6",
  delete: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13",
};

export function Icon({ name }) {
  return html`<svg class="icon" viewBox="0 0 24 24" aria-hidden="true" focusable="false"><path d=${PATHS[name]} /></svg>`;
}
