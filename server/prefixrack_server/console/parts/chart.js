// Curves over time, drawn by uPlot in the colours of the page.
import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";
import { html } from "../lib/html.js";

const HEIGHT = 190;
// Of 1, 2 and 5; below 1 for seconds.
const INCREMENTS = Array.from({ length: 12 }, (_, power) => [1, 2, 5].map((step) => step * 10 ** (power - 4))).flat();
const COLOURS = ["--curve-0", "--curve-1", "--curve-2"];
const dark = matchMedia("(prefers-color-scheme: dark)");

// `curves`: [{label, values}]; `summary` says in words what the picture shows; `floor` is what the scale reaches at least.
export function Chart({ times, curves, format, summary, floor }) {
  const place = useRef(null);
  const plot = useRef(null);
  const data = [times, ...curves.map(({ values }) => values)];
  const newest = useRef(data);
  newest.current = data;

  useEffect(() => {
    const element = place.current;
    const draw = () => {
      plot.current?.destroy();
      plot.current = new uPlot(optionsOf(element, curves, format, floor), newest.current, element);
    };
    draw();
    const sizes = new ResizeObserver(() => plot.current.setSize(sizeOf(element)));
    sizes.observe(element);
    dark.addEventListener("change", draw);
    return () => {
      sizes.disconnect();
      dark.removeEventListener("change", draw);
      plot.current.destroy();
    };
  }, []);
  useEffect(() => plot.current.setData(data));

  return html`<figure class="chart">
    <div ref=${place} class="chart-plot" role="img" aria-label=${summary}></div>
    <figcaption class="chart-legend">${curves.map(({ label, values }, index) => html`<span>
      <span class=${`chart-key curve-${index}`} aria-hidden="true"></span>${label} <b>${format(values.at(-1) ?? null)}</b>
    </span>`)}</figcaption>
  </figure>`;
}

const sizeOf = (place) => ({ width: Math.max(place.clientWidth, 100), height: HEIGHT });

function optionsOf(place, curves, format, floor) {
  const colour = (name) => getComputedStyle(place).getPropertyValue(name).trim();
  const axis = {
    stroke: colour("--muted"),
    font: "11px system-ui, sans-serif",
    grid: { stroke: colour("--line"), width: 1 },
    ticks: { show: false },
  };
  return {
    ...sizeOf(place),
    legend: { show: false },
    cursor: { show: false },
    padding: [8, 8, 0, 0],
    scales: { y: { range: (_, low, high) => [0, Math.max(high * 1.15, floor)] } },
    axes: [
      { ...axis, size: 30, space: 70, values: (_, ticks) => ticks.map(clock) },
      { ...axis, size: 58, space: 36, incrs: INCREMENTS, values: (_, ticks) => ticks.map((tick) => format(tick)) },
    ],
    series: [
      {},
      ...curves.map(({ label }, index) => ({
        label,
        stroke: colour(COLOURS[index]),
        width: 2,
        fill: index === 0 && curves.length === 1 ? `${colour(COLOURS[0])}1f` : undefined,
        points: { show: false },
      })),
    ],
  };
}

const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString("en-GB");
