// Numbers, sizes and times as people read them.
const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];
export const NOTHING = "–";

export function bytes(count) {
  if (count === null || count === undefined) return NOTHING;
  let step = 0;
  let value = count;
  while (value >= 1024 && step < UNITS.length - 1) {
    value /= 1024;
    step += 1;
  }
  return `${step === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${UNITS[step]}`;
}

export function count(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return NOTHING;
  return Math.abs(value) >= 1e5
    ? Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 }).format(value)
    : Intl.NumberFormat("en", { maximumFractionDigits: 0 }).format(value);
}

export function rate(value) {
  if (value === null || value === undefined) return NOTHING;
  if (value === 0) return "0";
  return value < 10 ? value.toFixed(1) : count(value);
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return NOTHING;
  if (seconds === 0) return "0";
  if (seconds >= 1) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  const ms = seconds * 1000;
  return `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;
}

export const percent = (share, digits = 1) => `${(share * 100).toFixed(digits)} %`;

const STEPS = [
  [60, "second"],
  [60, "minute"],
  [24, "hour"],
  [30.44, "day"],
  [12, "month"],
  [Infinity, "year"],
];

const secondsUntil = (iso) => (new Date(iso).getTime() - Date.now()) / 1000;

export function ago(iso) {
  const seconds = -secondsUntil(iso);
  return seconds < 45 ? "just now" : relative(-seconds);
}

// "in 3 days"; for what is over, how long ago it was.
export const until = (iso) => relative(secondsUntil(iso));

function relative(seconds) {
  let value = seconds;
  let step = 0;
  while (Math.abs(value) >= STEPS[step][0]) {
    value /= STEPS[step][0];
    step += 1;
  }
  return new Intl.RelativeTimeFormat("en", { numeric: "auto" }).format(Math.round(value), STEPS[step][1]);
}

export const moment = (iso) =>
  new Date(iso).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });

export const shortDigest = (digest) => digest.slice(0, 12);
export const plural = (number, word) => `${count(number)} ${word}${number === 1 ? "" : "s"}`;

// span_f1 stays as tools write it; 0.4934 becomes 0.493.
export const metric = ({ name, value }) => ({ name, text: Number.isFinite(value) ? value.toFixed(3) : String(value) });
