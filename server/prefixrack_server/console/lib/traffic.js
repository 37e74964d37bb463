// What the metrics say about one adapter, or one version of it.
import { quantile } from "./prometheus.js";

export function trafficOf(feed, labels) {
  return {
    perSecond: feed.rate("prefixrack_adapter_requests_total", labels),
    total: feed.last?.sum("prefixrack_adapter_requests_total", labels) ?? null,
    p95: quantile(0.95, feed.buckets("prefixrack_adapter_seconds", labels)),
  };
}
