// What the metrics say about one adapter of one tenant.
import { quantile } from "./prometheus.js";

const REQUESTS = "prefixrack_adapter_requests_total";

export function trafficOf(feed, { tenant, name }) {
  const labels = { adapter: name, tenant };
  return {
    perSecond: feed.rate(REQUESTS, labels),
    total: feed.last?.sum(REQUESTS, labels) ?? null,
    p95: quantile(0.95, feed.buckets("prefixrack_adapter_seconds", labels)),
  };
}

// Of the outputs of a shadow that were compared, how many said the same.
export function agreementOf(feed, labels) {
  const count = (agreement) => feed.last?.sum("prefixrack_shadow_outputs_total", { ...labels, agreement }) ?? 0;
  const same = count("same");
  return { same, total: same + count("different") + count("failed") };
}
