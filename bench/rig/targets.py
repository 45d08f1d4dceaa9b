"""The table of targets: what was measured, what was promised, what that means."""

from rig import names, stats
from rig.names import ADMITTED, REFUSED
from rig.stages import latency, memory, proxying, scale, storm, threads
from rig.stats import Cell
from rig.verdicts import (
    MISSED, TOO_NOISY, UNDECIDED, Row, as_figures, by_instructions, in_words, judge_cost, judge_exact, judge_gain,
    judge_middle, judge_repeated, noise_of,
)

# What an added round trip to Redis may cost beside itself.
ADDED_US = 15
MEMORY_PER_CONNECTION = 15_000
MEMORY_BACK = 1.20
MAIN = proxying.MAIN


def table(results, cpus):
    """All rows, in the order of the targets."""
    return [
        *_timed_and_counted(results, "Admitted start against bare Pingora",
                            ADMITTED, names.BARE_PINGORA, 1.10),
        _cpu(results, "Admitted start against nginx+Lua+Redis", ADMITTED, names.TOLLGATE, names.NGINX_LUA, 1.05),
        _cpu(results, "Refused start against nginx+Lua+Redis", REFUSED, names.TOLLGATE, names.NGINX_LUA, 0.65),
        *_timed_and_counted(results, "Refused start against bare Pingora giving the same 403 without Redis",
                            REFUSED, names.BARE_REFUSAL, 1.25),
        _cpu(results, "Admitted start against Envoy+ext_authz", ADMITTED, names.TOLLGATE, names.ENVOY, 0.25),
        _cpu(results, "Refused start against Envoy+ext_authz", REFUSED, names.TOLLGATE, names.ENVOY, 0.25),
        _cpu(results, "Admitted start, hold mode against lookup mode",
             ADMITTED, names.TOLLGATE_HOLD, names.TOLLGATE, 1.30),
        _cpu(results, "Redis's own CPU per lookup against nginx+Lua",
             ADMITTED, names.TOLLGATE, names.NGINX_LUA, 0.50, "redis_cpu_us"),
        _added_latency(results),
        _tail(results),
        _ratio(results, "Cost per start with 1,000,000 teams against one", scale.STAGE, 1.05,
               _scale_cell(names.TOLLGATE, 1_000_000), _scale_cell(names.TOLLGATE, 1)),
        _ratio(results, "Cost per start with 500 routes against 10", scale.STAGE, 1.05,
               _scale_cell(names.ROUTES_MANY), _scale_cell(names.ROUTES_FEW)),
        _idle_memory(results),
        _memory_back(results),
        _two_threads(results, cpus),
        _storm(results),
    ]


def _cpu(results, what, outcome, ours, yardstick, limit, name="gateway_cpu_us"):
    def cell(gateway):
        return Cell(proxying.STAGE, gateway, outcome, MAIN)
    return _ratio(results, what, proxying.STAGE, limit, cell(ours), cell(yardstick), name)


def _ratio(results, what, stage, limit, ours, yardstick, name="gateway_cpu_us"):
    """A ratio of costs per request, pair by pair."""
    row = Row(what, f"at most {limit:.2f} times")
    found = stats.ratio(results.samples, ours, yardstick, name)
    if found is None:
        return _absent(results, row, stage, ours.gateway, yardstick.gateway)
    row.measured, row.figures = in_words(found) + " times", as_figures(found)
    noise = noise_of(stats.figure(results.samples, yardstick, name), results.elsewhere.get(stage, 0.0),
                     yardstick.gateway)
    return _decided(row, noise, judge_cost(found, limit))


def _timed_and_counted(results, what, outcome, yardstick, limit):
    """CPU time, and beside it the instructions, which decide when time cannot."""
    timed = _cpu(results, f"{what}: CPU time", outcome, names.TOLLGATE, yardstick, limit)
    counted = Row(f"{what}: instructions", f"at most {limit:.2f} times")
    found = {entry["gateway"]: entry for entry in results.instructions if entry["outcome"] == outcome}
    if names.TOLLGATE in found and yardstick in found:
        ours, theirs = found[names.TOLLGATE], found[yardstick]
        value = ours["instructions"] / theirs["instructions"]
        counted.measured = f"{value:.2f} times ({ours['instructions']:,.0f} / {theirs['instructions']:,.0f})"
        counted.figures = {"value": value}
        counted.verdict = judge_repeated(ours["each"], theirs["each"], limit)
    else:
        _absent(results, counted, "instructions", names.TOLLGATE, yardstick)
    return by_instructions(timed, counted), counted


def _added_latency(results):
    ours, bare = (Cell(proxying.STAGE, gateway, ADMITTED, 1) for gateway in (names.TOLLGATE, names.BARE_PINGORA))
    row = Row("Added latency at one connection, median, over bare Pingora", f"one Redis round trip + {ADDED_US} µs")
    found = stats.difference(results.samples, ours, bare, "p50_us")
    round_trip = stats.summary(results.round_trips_us)
    if found is None or round_trip is None:
        return _absent(results, row, proxying.STAGE, names.TOLLGATE, names.BARE_PINGORA)
    limit = round_trip.median + ADDED_US
    row.target += f" = {limit:.0f} µs here"
    row.measured = f"{found.median:.0f} µs (lower quartile {found.lower:.0f} µs)"
    row.figures = {**as_figures(found), "redis_round_trip_us": round_trip.median, "limit_us": limit}
    noise = noise_of(stats.figure(results.samples, bare, "p50_us"), results.elsewhere.get(proxying.STAGE, 0.0), bare.gateway)
    return _decided(row, noise, judge_middle(found, limit))


def _tail(results):
    ours, bare = (Cell(latency.STAGE, gateway, ADMITTED, latency.CONNECTIONS, latency.HALF)
                  for gateway in (names.TOLLGATE, names.BARE_PINGORA))
    row = Row("99th percentile at half of the saturating rate, open loop, against bare Pingora", "at most 1.30 times")
    found = stats.ratio(results.samples, ours, bare, "p99_us")
    if found is None:
        return _absent(results, row, latency.STAGE, names.TOLLGATE, names.BARE_PINGORA)
    row.measured = f"{found.median:.2f} times (lower quartile {found.lower:.2f})"
    row.figures = as_figures(found)
    noise = noise_of(stats.figure(results.samples, bare, "p99_us"), results.elsewhere.get(latency.STAGE, 0.0), bare.gateway)
    behind = [sample for cell in (ours, bare) for sample in stats.of(results.samples, cell) if not latency.kept_up(sample)]
    if behind and not noise:
        noise = f"in {len(behind)} bursts the asked rate was not reached"
    return _decided(row, noise, judge_middle(found, 1.30))


def _idle_memory(results):
    row = Row("Memory of an idle connection (10,000 of them)", f"at most {MEMORY_PER_CONNECTION // 1000} KB each")
    found = results.memory.get(names.TOLLGATE)
    if found is None:
        return _absent(results, row, memory.STAGE, names.TOLLGATE)
    value = found["per_connection"]
    row.measured, row.figures = f"{value / 1000:.1f} KB", {"value": value}
    row.verdict = judge_exact(value, MEMORY_PER_CONNECTION)
    return row


def _memory_back(results):
    row = Row("Memory after a burst of 10,000 connections and ten minutes", "back within 20 % of before")
    found = results.memory.get(names.TOLLGATE)
    if found is None:
        return _absent(results, row, memory.STAGE, names.TOLLGATE)
    after_seconds, resident = found["after"][-1]
    value = resident / found["before"]
    row.measured = (f"{value:.2f} times after {after_seconds / 60:.1f} min "
                    f"({found['before'] / 1e6:.0f} MB before, {resident / 1e6:.0f} MB then)")
    row.figures = {"value": value, "after_seconds": after_seconds}
    row.verdict = judge_exact(value, MEMORY_BACK)
    if row.verdict == MISSED and after_seconds < 600:
        # Too early to say so; earlier than promised is another thing.
        row.verdict, row.why = UNDECIDED, "looked at before the ten minutes were over"
    return row


def _two_threads(results, cpus):
    one, two = (Cell(threads.STAGE, gateway, ADMITTED, threads.CONNECTIONS)
                for gateway in (names.TOLLGATE, names.TOLLGATE_THREADS))
    row = Row("Throughput of two threads against one", "at least 1.70 times")
    found = stats.ratio(results.samples, two, one, "requests_per_second")
    if found is None:
        return _absent(results, row, threads.STAGE, names.TOLLGATE)
    row.figures = as_figures(found)
    row.measured = f"{found.upper:.2f} (median {found.median:.2f}) times"
    if cpus < threads.CPUS_NEEDED:
        row.why = f"{cpus} CPUs are too few ({threads.CPUS_NEEDED} are needed): load and gateway share them, not judged"
        return row
    noise = noise_of(stats.figure(results.samples, one, "requests_per_second"),
                     results.elsewhere.get(threads.STAGE, 0.0), one.gateway)
    return _decided(row, noise, judge_gain(found, 1.70))


def _storm(results):
    row = Row("99th percentile of admitted teams while 10,000 connections of refused teams storm, against quiet",
              "at most 1.50 times")
    pairs = storm.p99s(results.storm, remembering=True)
    found = stats.summary(loud / quiet for quiet, loud in pairs if quiet)
    if found is None:
        return _absent(results, row, storm.STAGE)
    row.measured = f"{found.median:.2f} times (lower quartile {found.lower:.2f})"
    without = stats.summary(loud / quiet for quiet, loud in storm.p99s(results.storm, remembering=False) if quiet)
    if without:
        row.measured += f"; without the memory of refusals {without.median:.2f} times"
    row.figures = as_figures(found)
    noise = noise_of(stats.summary(quiet for quiet, _ in pairs), results.elsewhere.get(storm.STAGE, 0.0), "quiet")
    return _decided(row, noise, judge_middle(found, 1.50))


def _scale_cell(gateway, teams=0):
    return Cell(scale.STAGE, gateway, ADMITTED, scale.CONNECTIONS, scale.teams_variant(teams) if teams else "")


def _decided(row, noise, verdict):
    row.verdict, row.why = (TOO_NOISY, noise) if noise else (verdict, "")
    return row


def _absent(results, row, stage, *gateways):
    reasons = ["its part of the load test failed" if stage in results.failed else None,
               results.not_measured.get(stage),
               *(results.not_measured.get(gateway) for gateway in gateways)]
    row.why = next((reason for reason in reasons if reason), "left out of this run")
    return row
