"""report.txt: the targets, then every cell and ratio."""

from rig import names, stats
from rig.names import ADMITTED, ALL, REFUSED
from rig.stages import proxying
from rig.stats import Cell

# What is told of each pair beside the targets.
COMPARED = (
    (ADMITTED, names.TOLLGATE, names.BARE_PINGORA),
    (ADMITTED, names.TOLLGATE, names.NGINX_LUA),
    (ADMITTED, names.TOLLGATE, names.ENVOY),
    (ADMITTED, names.TOLLGATE_HOLD, names.TOLLGATE),
    (ADMITTED, names.TOLLGATE_RUNS, names.TOLLGATE),
    (ADMITTED, names.TOLLGATE_WAYS, names.TOLLGATE),
    (ADMITTED, names.TOLLGATE, names.TOLLGATE_BEFORE),
    (REFUSED, names.TOLLGATE, names.BARE_REFUSAL),
    (REFUSED, names.TOLLGATE, names.NGINX_LUA),
    (REFUSED, names.TOLLGATE, names.ENVOY),
    (REFUSED, names.TOLLGATE_HOLD, names.TOLLGATE),
    (REFUSED, names.TOLLGATE_WAYS, names.TOLLGATE),
    (REFUSED, names.TOLLGATE, names.TOLLGATE_BEFORE),
)
RATIO_FIGURES = {"gateway_cpu_us": "CPU", "redis_cpu_us": "Redis CPU", "requests_per_second": "req/s",
                 "p50_us": "p50", "p99_us": "p99"}
# These ask Redis nothing: there is nothing to divide by.
WITHOUT_REDIS = (names.BARE_UPSTREAM, names.BARE_PINGORA, names.BARE_REFUSAL)


def whole(facts, settings, results, rows):
    blocks = [_facts(facts, settings, results), _targets(rows), _cells(results), _ratios(results), _memory(results),
              _instructions(results), _holds(results), _troubles(results)]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _facts(facts, settings, results):
    busy = ", ".join(f"{stage} {share:.0%}" for stage, share in results.elsewhere.items())
    told = {**facts, **settings, "elsewhere": f"{busy} of the CPUs had other programs and machines"}
    return "\n".join(["Load test", *(f"  {name:14} {value}" for name, value in told.items())])


def _targets(rows):
    lines = ["Targets (of a cost the lower quartile of the rounds counts)"]
    for row in rows:
        lines.append(f"  {row.verdict.upper() if row.verdict == 'missed' else row.verdict:12} {row.what}")
        lines.append(f"  {'':12}   {row.measured}; target {row.target}{'; ' + row.why if row.why else ''}")
    return "\n".join(lines)


def cells_of(samples):
    """All cells that were measured, as they are shown."""
    order = {name: place for place, name in enumerate(ALL)}
    found = dict.fromkeys(sample.cell for sample in samples)
    return sorted(found, key=lambda cell: (cell.outcome, cell.connections, cell.variant, order[cell.gateway]))


def _cells(results):
    if not results.samples:
        return ""
    lines = ["Medians over the rounds; CPU time per request of the gateway and of Redis"]
    for stage in dict.fromkeys(sample.stage for sample in results.samples):
        lines.append(f"  {stage + ':':16} {'':9} {'conns':>5} {'gateway':18} {'req/s':>8} {'p50 ms':>8} {'p99 ms':>8} "
                     f"{'CPU µs':>8} {'(quartiles)':>15} {'Redis µs':>8} {'wrong':>6}")
        lines += [_row(results.samples, cell) for cell in cells_of(results.of_stage(stage))]
    return "\n".join(lines)


def _row(samples, cell):
    def middle(name):
        return stats.figure(samples, cell, name)

    cpu = middle("gateway_cpu_us")
    p50, p99 = (f"{found.median / 1e3:.2f}" if (found := middle(name)) else "-" for name in ("p50_us", "p99_us"))
    quartiles = f"({cpu.lower:.1f} … {cpu.upper:.1f})"
    return (f"  {cell.variant:16} {cell.outcome:9} {cell.connections:>5} {cell.gateway:18} "
            f"{middle('requests_per_second').median:>8.0f} {p50:>8} {p99:>8} {cpu.median:>8.1f} {quartiles:>15} "
            f"{middle('redis_cpu_us').median:>8.1f} {sum(sample.wrong for sample in stats.of(samples, cell)):>6}")


def _ratios(results):
    lines = []
    for outcome, ours, yardstick in COMPARED:
        for connections in dict.fromkeys(sample.connections for sample in results.of_stage(proxying.STAGE)):
            mine, theirs = (Cell(proxying.STAGE, gateway, outcome, connections) for gateway in (ours, yardstick))
            found = {name: None if name == "redis_cpu_us" and yardstick in WITHOUT_REDIS
                     else stats.ratio(results.samples, mine, theirs, name) for name in RATIO_FIGURES}
            if found["gateway_cpu_us"]:
                cells = " ".join(f"{_median_and_lower(one):>13}" for one in found.values())
                lines.append(f"  {f'{outcome}: {ours} / {yardstick}':42} {connections:>5} {cells}")
    if not lines:
        return ""
    titles = " ".join(f"{title:>13}" for title in RATIO_FIGURES.values())
    return "\n".join(["Ratios, pair by pair: median (lower quartile)", f"  {'':42} {'conns':>5} {titles}", *lines])


def _median_and_lower(found):
    return f"{found.median:.2f} ({found.lower:.2f})" if found else "-"


def _memory(results):
    lines = [f"  {gateway:14} {one['before'] / 1e6:6.1f} MB before, {one['per_connection'] / 1e3:6.1f} KB per idle connection, "
             f"{one['burst'] / 1e6:6.1f} MB in a burst, then "
             + ", ".join(f"{resident / 1e6:.1f} MB after {after:.0f} s" for after, resident in _some(one["after"]))
             for gateway, one in results.memory.items()]
    return "\n".join(["Memory, 10,000 connections", *lines]) if lines else ""


def _some(looks):
    """The first look, the one nearest to a minute, and the last."""
    minute = min(looks, key=lambda look: abs(look[0] - 60))
    return list(dict.fromkeys(tuple(look) for look in (looks[0], minute, looks[-1])))


def _instructions(results):
    lines = [f"  {one['outcome']:9} {one['gateway']:18} {one['instructions']:10,.0f} per request "
             f"({len(one['each'])} times {one['requests']:,} requests), {one['allocations']:.0f} allocations"
             for one in results.instructions]
    return "\n".join(["User instructions (callgrind)", *lines]) if lines else ""


def _holds(results):
    lines = []
    for kind, found in results.holds.items():
        spent = stats.summary(found["redis_cpu_us"])
        lines.append(f"  {kind:28} {spent.median:6.2f} µs of Redis's CPU each, {1e6 / spent.median:9,.0f} a second on one core")
    return "\n".join(["Redis alone, with 100,000 live holds of one team", *lines]) if lines else ""


def _troubles(results):
    lines = [f"  {what}: {why}" for what, why in results.not_measured.items()]
    blocks = ["Not measured\n" + "\n".join(lines)] if lines else []
    if results.failed:
        blocks.append("FAILED\n" + "\n".join(f"  {stage}: {why}" for stage, why in results.failed.items()))
    wrong = results.wrong()
    if wrong:
        blocks.append("\n".join(["WRONG ANSWERS: the figures above are of a system that does not work", *(
            f"  {one.stage}, {one.gateway}, {one.outcome}, {one.connections} connections {one.variant}, round {one.round}: "
            f"{', '.join(one.notes)}" for one in wrong[:20])]))
    elif results.samples:
        blocks.append("Every answer was the expected one.")
    return "\n\n".join(blocks)
