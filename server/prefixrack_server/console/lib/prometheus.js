// Prometheus' text format: a scrape becomes Sample, and of two of them come rates and quantiles.
const LINE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/;
const LABEL = /([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"/g;
const ESCAPES = { "\\n": "\n", '\\"': '"', "\\\\": "\\" };

export class Sample {
  constructor(text, seconds) {
    this.seconds = seconds;
    this.series = new Map(); // name → [{labels, value}]
    for (const line of text.split("\n")) this.#add(line);
  }

  #add(line) {
    if (line.startsWith("#")) return;
    const match = LINE.exec(line);
    if (!match) return;
    const [, name, labels = "", value] = match;
    if (!this.series.has(name)) this.series.set(name, []);
    this.series.get(name).push({ labels: parseLabels(labels), value: Number(value.replace("Inf", "Infinity")) });
  }

  all(name) {
    return this.series.get(name) ?? [];
  }

  where(name, wanted = {}) {
    const pairs = Object.entries(wanted);
    return this.all(name).filter(({ labels }) => pairs.every(([key, value]) => labels[key] === value));
  }

  // null where the server has no such metric.
  sum(name, wanted) {
    const found = this.where(name, wanted);
    return found.length ? found.reduce((total, { value }) => total + value, 0) : null;
  }

  labelValues(name, label) {
    return [...new Set(this.all(name).map(({ labels }) => labels[label]))];
  }

  // Upper end → how many are in this bucket alone, several series added up.
  buckets(name, wanted) {
    const cumulative = new Map();
    for (const { labels, value } of this.where(`${name}_bucket`, wanted)) {
      const bound = Number(labels.le.replace("+Inf", "Infinity"));
      cumulative.set(bound, (cumulative.get(bound) ?? 0) + value);
    }
    let below = 0;
    return [...cumulative].sort(([a], [b]) => a - b).map(([bound, total]) => {
      const own = total - below;
      below = total;
      return { bound, count: own };
    });
  }
}

export function parseLabels(text) {
  const labels = {};
  for (const [, name, value] of text.matchAll(LABEL)) {
    labels[name] = value.replace(/\\[n"\\]/g, (escape) => ESCAPES[escape]);
  }
  return labels;
}

// A counter by the second between two samples; one that fell has begun anew.
export function rateBetween(before, after, name, wanted) {
  const [first, last] = [before.sum(name, wanted), after.sum(name, wanted)];
  if (last === null || after.seconds <= before.seconds) return null;
  const grown = first === null || last < first ? last : last - first;
  return grown / (after.seconds - before.seconds);
}

export function bucketsBetween(before, after, name, wanted) {
  const earlier = new Map(before.buckets(name, wanted).map(({ bound, count }) => [bound, count]));
  return after.buckets(name, wanted).map(({ bound, count }) => {
    const was = earlier.get(bound) ?? 0;
    return { bound, count: count < was ? count : count - was };
  });
}

// As Prometheus' histogram_quantile: linear within a bucket; null where nothing was counted.
export function quantile(share, buckets) {
  const total = buckets.reduce((sum, { count }) => sum + count, 0);
  if (total === 0) return null;
  const wanted = share * total;
  let seen = 0;
  let lower = 0;
  for (const { bound, count } of buckets) {
    if (count > 0 && seen + count >= wanted) {
      return Number.isFinite(bound) ? lower + ((bound - lower) * (wanted - seen)) / count : lower;
    }
    seen += count;
    if (Number.isFinite(bound)) lower = bound;
  }
  return lower;
}
