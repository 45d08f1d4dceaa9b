"""The report: text for people, JSON for programs, charts for both."""

import json
from dataclasses import asdict

from rig import charts, stats
from rig.gateways import ADMITTED, ALL, REFUSED


def write(folder, facts, settings, samples, cpu_elsewhere):
    """Writes report.txt, report.json and the charts; returns the text."""
    verdicts = list(stats.verdicts(samples, cpu_elsewhere))
    text = as_text(facts, settings, samples, verdicts)
    (folder / "report.txt").write_text(text)
    (folder / "report.json").write_text(json.dumps({
        "machine": facts,
        "settings": settings,
        "verdicts": verdicts,
        "ratios": [
            {"comparison": words, "connections": connections,
             "figures": {name: asdict(found) for name, found in figures.items() if found}}
            for words, connections, figures in stats.ratios(samples, settings["connections"])
        ],
        "samples": [sample.as_dict() for sample in samples],
    }, indent=1))
    for name, drawing in charts.draw_all(samples, settings["connections"]).items():
        (folder / name).write_text(drawing)
    return text


def as_text(facts, settings, samples, verdicts):
    blocks = [
        _facts(facts, settings),
        _table(samples, settings["connections"]),
        _ratios(samples, settings["connections"]),
        "Verdicts\n" + "\n".join(f"  {line}" for line in verdicts),
        _wrong(samples),
    ]
    return "\n\n".join(blocks) + "\n"


def _facts(facts, settings):
    lines = ["Load test", *(f"  {name:14} {value}" for name, value in facts.items())]
    lines += [f"  {name:14} {value}" for name, value in settings.items()]
    return "\n".join(lines)


def _table(samples, connections_list):
    head = (f"  {'':10} {'conns':>5} {'gateway':14} {'req/s':>8} {'p50 ms':>8} {'p90 ms':>8} {'p99 ms':>8} "
            f"{'CPU µs':>7} {'(quartiles)':>13} {'Redis µs':>8} {'wrong':>6}")
    lines = ["Medians over the rounds; CPU time per request of the gateway and of Redis", head]
    for outcome in (ADMITTED, REFUSED):
        for connections in connections_list:
            for gateway in ALL:
                line = _row(samples, gateway, outcome, connections)
                if line:
                    lines.append(line)
    return "\n".join(lines)


def _row(samples, gateway, outcome, connections):
    cell = stats.of(samples, gateway, outcome, connections)
    if not cell:
        return None
    middle = {name: stats.figure(samples, gateway, outcome, connections, name)
              for name in ("requests_per_second", "p50_us", "p90_us", "p99_us", "gateway_cpu_us", "redis_cpu_us")}
    cpu = middle["gateway_cpu_us"]
    quartiles = f"({cpu.lower:.1f} … {cpu.upper:.1f})"
    return (f"  {outcome:10} {connections:>5} {gateway:14} {middle['requests_per_second'].median:>8.0f} "
            f"{middle['p50_us'].median / 1e3:>8.2f} {middle['p90_us'].median / 1e3:>8.2f} "
            f"{middle['p99_us'].median / 1e3:>8.2f} {cpu.median:>7.1f} {quartiles:>13} "
            f"{middle['redis_cpu_us'].median:>8.1f} {sum(s.wrong for s in cell):>6}")


def _ratios(samples, connections_list):
    lines = ["Ratios, pair by pair: median (lower quartile)",
             f"  {'':42} {'conns':>5} {'CPU':>13} {'Redis CPU':>13} {'req/s':>13} {'p50':>13} {'p99':>13}"]
    for words, connections, figures in stats.ratios(samples, connections_list):
        cells = " ".join(f"{_median_and_lower(figures.get(name)):>13}" for name in stats.RATIO_FIGURES)
        lines.append(f"  {words:42} {connections:>5} {cells}")
    if len(lines) == 2:
        lines.append("  none: tollgate or what it is compared with was left out")
    return "\n".join(lines)


def _median_and_lower(found):
    return f"{found.median:.2f} ({found.lower:.2f})" if found else "-"


def _wrong(samples):
    wrong = [s for s in samples if s.wrong]
    if not wrong:
        return "Every answer was the expected one."
    lines = ["WRONG ANSWERS: the figures above are of a system that does not work"]
    lines += [f"  {s.gateway}, {s.outcome}, {s.connections} connections, round {s.round}: {', '.join(s.notes)}"
              for s in wrong[:20]]
    return "\n".join(lines)
