// What the metrics say about one adapter of one tenant.
import { quantile } from "./prometheus.js";

const REQUESTS = "prefixrack_adapter_requests_total";
const UNKNOWN = { perSecond: null, total: null, p95: null };

// `tenant` is null where the key does not let it be known: then a name that several tenants have says nothing.
export function trafficOf(feed, tenant, adapter) {
  const owners = new Set((feed.last?.where(REQUESTS, { adapter }) ?? []).map(({ labels }) => labels.tenant));
  if (tenant === null && owners.size > 1) return UNKNOWN;
  const labels = tenant === null ? { adapter } : { adapter, tenant };
  return {
    perSecond: feed.rate(REQUESTS, labels),
    total: feed.last?.sum(REQUESTS, labels) ?? null,
    p95: quantile(0.95, feed.buckets("prefixrack_adapter_seconds", labels)),
  };
}
