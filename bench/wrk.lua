-- For wrk -s: when it has ended, its figures in one line, as the other clients
-- print them; without it wrk rounds them.
function done(summary, latency)
	local errors = summary.errors
	io.write(string.format("requests=%d seconds=%.4f bytes=%d p50=%d " ..
		"p90=%d p99=%d p999=%d max=%d errors=%d\n",
		summary.requests, summary.duration / 1e6, summary.bytes,
		latency:percentile(50), latency:percentile(90),
		latency:percentile(99), latency:percentile(99.9), latency.max,
		errors.connect + errors.read + errors.write + errors.status +
		errors.timeout))
end
