// Scrapes /metrics as long as some part of the console looks, and keeps the last minutes.
import { useEffect, useState } from "preact/hooks";
import { send } from "./api.js";
import { Sample, bucketsBetween, rateBetween } from "./prometheus.js";

const PERIOD_S = 2;
const MAX_SAMPLES = 150;
const WINDOW_S = 60;

class Feed {
  samples = [];
  problem = null;
  #listeners = new Set();
  #timer = null;

  subscribe(listener) {
    this.#listeners.add(listener);
    if (this.#listeners.size === 1) this.#turn();
    return () => {
      this.#listeners.delete(listener);
      if (this.#listeners.size === 0) clearTimeout(this.#timer);
    };
  }

  get last() {
    return this.samples.at(-1);
  }

  // The oldest sample of the last minute: rates are over what lies between it and the last one.
  get before() {
    return this.samples.find(({ seconds }) => this.last.seconds - seconds <= WINDOW_S);
  }

  rate(name, wanted) {
    return this.samples.length < 2 ? null : rateBetween(this.before, this.last, name, wanted);
  }

  // Those of the last minute; where nothing happened in it, those since the server's start.
  buckets(name, wanted) {
    if (!this.last) return [];
    const recent = bucketsBetween(this.before, this.last, name, wanted);
    return recent.some(({ count }) => count > 0) ? recent : this.last.buckets(name, wanted);
  }

  // Points of a curve: f(sample before, sample) for each pair of neighbours.
  curve(f) {
    return this.samples.slice(1).map((sample, index) => f(this.samples[index], sample));
  }

  async #turn() {
    clearTimeout(this.#timer);
    if (!document.hidden) await this.#scrape();
    if (this.#listeners.size > 0) this.#timer = setTimeout(() => this.#turn(), PERIOD_S * 1000);
  }

  async #scrape() {
    try {
      const response = await send("GET", "metrics", { headers: { Accept: "text/plain" } });
      this.samples = [...this.samples, new Sample(await response.text(), Date.now() / 1000)].slice(-MAX_SAMPLES);
      this.problem = null;
    } catch (error) {
      this.problem = error;
    }
    for (const listener of this.#listeners) listener();
  }
}

const feed = new Feed();

export function useFeed() {
  const [, redraw] = useState(0);
  useEffect(() => feed.subscribe(() => redraw((turn) => turn + 1)), []);
  return feed;
}
