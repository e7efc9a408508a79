-- Posts the bodies of a file, one a line, in turn, and ends with one line that a program can read.
local bodies = {}
for line in io.lines(os.getenv("BENCH_BODIES")) do
  bodies[#bodies + 1] = line
end
local turn = 0

function request()
  turn = turn % #bodies + 1
  return wrk.format("POST", nil, { ["Content-Type"] = "application/json" }, bodies[turn])
end

function done(summary, latency)
  local e = summary.errors
  io.write(string.format(
    "RESULT %d %d %d %.0f %.0f\n",
    summary.requests, summary.duration,
    e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50), latency:percentile(99)
  ))
end
