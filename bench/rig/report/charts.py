"""The charts of the page: what is drawn from which bursts. Each is (caption, note, drawing)."""

from rig import names, stats
from rig.names import ADMITTED, ALL, REFUSED
from rig.report import svg
from rig.stages import extras, latency, proxying, scale
from rig.stats import Cell, Summary

MAIN = proxying.MAIN
# As wide as the names beside the ends of lines.
NAMES_RIGHT = 96
SHORT = {names.BARE_UPSTREAM: "no gateway", names.BARE_PINGORA: "bare Pingora", names.BARE_REFUSAL: "bare 403",
         names.NGINX_LUA: "nginx+Lua", names.ENVOY: "Envoy", names.TOLLGATE_HOLD: "tollgate, hold",
         names.TOLLGATE_RUNS: "hold + run ids", names.TOLLGATE_WAYS: "all ways in", names.TOLLGATE_BEFORE: "before",
         names.TOLLGATE_LOG: "with log"}


def all_of(results):
    """Those for which there are figures."""
    found = [_cpu(results, ADMITTED), _cpu(results, REFUSED), _throughput_latency(results), _percentiles(results),
             _connections(results, ADMITTED), _connections(results, REFUSED), _teams(results),
             _idle_memory(results), _memory_after(results), _extras(results)]
    return [one for one in found if one]


def _cpu(results, outcome):
    rows = []
    for gateway in ALL:
        found = stats.figure(results.samples, Cell(proxying.STAGE, gateway, outcome, MAIN), "gateway_cpu_us")
        # The upstream is in every figure's background, and no gateway.
        if found and gateway != names.BARE_UPSTREAM:
            rows.append((gateway, SHORT.get(gateway, gateway), found))
    if not rows:
        return None
    title = f"CPU time per {outcome} start"
    return (title, f"{MAIN} connections. Bar: median over the rounds; line: quartiles. "
                   "Envoy's includes the authorizer that it asks. Shorter is better.",
            svg.bars(title, rows, "µs of CPU per request"))


def _throughput_latency(results):
    lines = {}
    for gateway in latency.MEASURED:
        points = []
        for share in sorted({*latency.SHARES, *latency.SHARES_QUICK}):
            cell = Cell(latency.STAGE, gateway, ADMITTED, latency.CONNECTIONS, latency.share_variant(share))
            rate, p99 = (stats.figure(results.samples, cell, name) for name in ("requests_per_second", "p99_us"))
            if p99:
                doubtful = any(latency.load_was_limit(one) or not latency.kept_up(one)
                               for one in stats.of(results.samples, cell))
                points.append((rate.median, p99.median / 1e3, doubtful))
        if points:
            lines[gateway] = points
    if not lines:
        return None
    every = [point for points in lines.values() for point in points]
    plot = svg.Plot(svg.Linear([rate for rate, _, _ in every]), svg.Logarithmic([ms for _, ms, _ in every]),
                    "starts per second", "99th percentile, ms (log)", NAMES_RIGHT)
    for gateway, points in lines.items():
        plot.series(gateway, [(rate, ms) for rate, ms, _ in points],
                    hollow=[index for index, point in enumerate(points) if point[2]])
    title = "Throughput against latency"
    return (title, "Open loop: starts come at a constant rate, at shares of what each gateway takes at most; waiting counts. "
                   "Hollow: the rate was not reached, or the generator's CPUs were full, so the point says little of the gateway. "
                   "Lower and further right is better.", plot.drawn(title, SHORT))


def _percentiles(results):
    lines = {}
    for gateway in latency.MEASURED:
        cell = Cell(latency.STAGE, gateway, ADMITTED, latency.CONNECTIONS, latency.HALF)
        bursts = stats.of(results.samples, cell)
        points = []
        for percentile in ("50", "75", "90", "95", "99", "99.9"):
            found = stats.summary(burst.percentiles_us.get(percentile) for burst in bursts)
            if found:
                points.append((percentile, found.median / 1e3))
        if points:
            lines[gateway] = points
    if not lines:
        return None
    every = [point for points in lines.values() for point in points]
    plot = svg.Plot(svg.Nines(dict.fromkeys(place for place, _ in every)), svg.Logarithmic([ms for _, ms in every]),
                    "this share of the starts took no longer", "latency, ms (log)", NAMES_RIGHT, x_format="{} %".format)
    for gateway, points in lines.items():
        plot.series(gateway, points)
    title = "Latency distribution"
    return (title, "Open loop, the same rate for all: half of what tollgate takes at most. Median over the rounds of each "
                   "percentile. Lower is better.", plot.drawn(title, SHORT))


def _connections(results, outcome):
    lines = {}
    for gateway in proxying.BASIC:
        cells = {sample.cell for sample in results.of_stage(proxying.STAGE)
                 if (sample.gateway, sample.outcome) == (gateway, outcome)}
        lines[gateway] = [(cell.connections, stats.figure(results.samples, cell, "gateway_cpu_us"))
                          for cell in sorted(cells, key=lambda cell: cell.connections)]
    title = f"Cost against connections: {outcome}"
    return _cost(title, "connections", {gateway: points for gateway, points in lines.items() if len(points) > 1},
                 "Many connections share system calls and round trips to Redis.")


def _teams(results):
    lines = {}
    for gateway in (names.TOLLGATE, names.NGINX_LUA):
        points = []
        for count in scale.TEAMS:
            cell = Cell(scale.STAGE, gateway, ADMITTED, scale.CONNECTIONS, scale.teams_variant(count))
            found = stats.figure(results.samples, cell, "gateway_cpu_us")
            if found:
                points.append((count, found))
        if len(points) > 1:
            lines[gateway] = points
    return _cost("Cost against teams", "teams, one drawn for each start", lines,
                 f"Admitted starts, {scale.CONNECTIONS} connections. Flat is good.")


def _cost(title, x_label, lines, note):
    if not lines:
        return None
    places = sorted({x for points in lines.values() for x, _ in points})
    plot = svg.Plot(svg.Places(places), svg.Linear([found.upper for points in lines.values() for _, found in points]),
                    x_label, "µs of CPU per start", NAMES_RIGHT)
    for gateway, points in lines.items():
        plot.band(gateway, [(x, found.lower, found.upper) for x, found in points])
        plot.series(gateway, [(x, found.median) for x, found in points])
    return title, f"{note} Line: median; band: quartiles.", plot.drawn(title, SHORT)


def _idle_memory(results):
    rows = [(gateway, SHORT.get(gateway, gateway), Summary(*[max(one["per_connection"] / 1e3, 0.0)] * 3))
            for gateway, one in results.memory.items()]
    title = "Memory of an idle connection"
    return (title, "Resident memory with 10,000 idle connections, less that before them, shared out; "
                   "each had one start. Without the kernel's own. Shorter is better.",
            svg.bars(title, rows, "KB per connection")) if rows else None


def _memory_after(results):
    if not results.memory:
        return None
    looks = {gateway: [(-2, one["before"]), (-1, one["burst"]), *map(tuple, one["after"])]
             for gateway, one in results.memory.items()}
    last = max(seconds for points in looks.values() for seconds, _ in points)
    every = [resident / 1e6 for points in looks.values() for _, resident in points]
    plot = svg.Plot(svg.Linear([last], 1.0), svg.Linear(every), "seconds since all 10,000 connections were closed",
                    "resident memory, MB", NAMES_RIGHT)
    for gateway, points in looks.items():
        before = points[0][1] / 1e6
        plot.parts.append(svg.line(plot.x(0), plot.y(before), plot.x(last), plot.y(before), f"line thin dashed s-{gateway}"))
        plot.series(gateway, [(max(seconds, 0.0), resident / 1e6) for seconds, resident in points[1:]])
    title = "Memory after a burst of 10,000 connections"
    return title, "Dashed: before the connections came. What is given back brings the line down to it.", plot.drawn(title, SHORT)


def _extras(results):
    rows = []
    for variant in (extras.HTTP2, extras.OVER_TLS, extras.BIG_BODY, extras.LOGGED):
        for cell in dict.fromkeys(sample.cell for sample in results.of_stage(extras.STAGE) if sample.variant == variant):
            if cell.gateway in (names.TOLLGATE, names.BARE_PINGORA, names.TOLLGATE_LOG, names.NGINX_LUA):
                rows.append((variant, cell))
    def named(variant, gateway):
        if variant == extras.LOGGED:
            return "log on" if gateway == names.TOLLGATE_LOG else "log off"
        return f"{variant.split(',')[0]}, {SHORT.get(gateway, gateway)}"

    costs = [(cell.gateway, named(variant, cell.gateway),
               stats.figure(results.samples, cell, "gateway_cpu_us"))
              for variant, cell in rows if variant != extras.BIG_BODY]
    title = "HTTP/2, TLS and the access log"
    return (title, "CPU time per admitted start. Log on and off are tollgate over plain HTTP/1. "
                   "1 MB bodies are in the tables below: they would squeeze these.",
            svg.bars(title, costs, "µs of CPU per request", 166)) if costs else None
