"""Bar charts as SVG, written by hand: the load test needs nothing but Python.

One chart has a panel per outcome, in it a group of bars per number of
connections and a bar per gateway.
"""

from html import escape
from math import log10

from rig import stats
from rig.gateways import (
    ADMITTED, ALL, BARE_PINGORA, BARE_UPSTREAM, NGINX_LUA, REFUSED, TOLLGATE, TOLLGATE_BEFORE,
    TOLLGATE_HOLD, TOLLGATE_RUNS, TOLLGATE_WAYS,
)

# Told apart by people who see colours differently, too (Okabe and Ito).
COLOURS = {BARE_UPSTREAM: "#999999", BARE_PINGORA: "#56b4e9", TOLLGATE: "#d55e00",
           TOLLGATE_WAYS: "#f0e442", TOLLGATE_BEFORE: "#000000",
           TOLLGATE_HOLD: "#cc79a7", TOLLGATE_RUNS: "#e69f00", NGINX_LUA: "#009e73"}
WIDTH, PANEL_HEIGHT, LEFT, RIGHT, TOP, GAP = 860, 230, 76, 16, 64, 56
BAR_SHARE = 0.8  # of a group's width


def draw_all(samples, connections_list):
    """File name to drawing."""
    def quartiles(name):
        return lambda *cell: stats.figure(samples, *cell, name)

    def median_to_p99(*cell):
        p50, p99 = (stats.figure(samples, *cell, name) for name in ("p50_us", "p99_us"))
        return p50 and stats.Summary(p50.median / 1e3, p50.median / 1e3, p99.median / 1e3)

    return {
        "cpu.svg": _chart("CPU time of the gateway per request, µs (line: quartiles)",
                          connections_list, quartiles("gateway_cpu_us"), _Linear),
        "redis-cpu.svg": _chart("CPU time of Redis per request, µs (line: quartiles)",
                                connections_list, quartiles("redis_cpu_us"), _Linear),
        "throughput.svg": _chart("Requests per second (line: quartiles)",
                                 connections_list, quartiles("requests_per_second"), _Linear),
        "latency.svg": _chart("Latency, ms: bar to the median, line to the 99th percentile; logarithmic",
                              connections_list, median_to_p99, _Logarithmic),
    }


class _Linear:
    """Value to share of the panel's height."""

    def __init__(self, values):
        self.top = max(values, default=1.0) * 1.12 or 1.0

    def share(self, value):
        return value / self.top

    def ticks(self):
        step = 10 ** int(log10(self.top)) if self.top >= 1 else 0.1
        while self.top / step < 4:
            step /= 2
        return [index * step for index in range(int(self.top / step) + 1)]


class _Logarithmic:
    def __init__(self, values):
        positive = [value for value in values if value > 0] or [1.0]
        self.low, self.high = int(log10(min(positive)) // 1), int(log10(max(positive)) // 1) + 1

    def share(self, value):
        if value <= 0:
            return 0.0
        return (log10(value) - self.low) / (self.high - self.low)

    def ticks(self):
        return [10.0 ** power for power in range(self.low, self.high + 1)]


def _chart(title, connections_list, cell, scale_kind):
    panels = {outcome: {(connections, gateway): found
                        for connections in connections_list for gateway in ALL
                        if (found := cell(gateway, outcome, connections))}
              for outcome in (ADMITTED, REFUSED)}
    panels = {outcome: bars for outcome, bars in panels.items() if bars}
    # Bars are as wide in a panel with few gateways as in one with all of them.
    bars_at_most = len({gateway for bars in panels.values() for _, gateway in bars})
    height = TOP + len(panels) * (PANEL_HEIGHT + GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="{LEFT}" y="22" font-size="15">{escape(title)}</text>',
        *_legend({gateway for bars in panels.values() for _, gateway in bars}),
    ]
    for index, (outcome, bars) in enumerate(panels.items()):
        scale = scale_kind([value for found in bars.values() for value in (found.median, found.upper)])
        parts += _panel(TOP + index * (PANEL_HEIGHT + GAP), outcome, connections_list, bars, scale, bars_at_most)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _legend(gateways):
    for index, gateway in enumerate(name for name in ALL if name in gateways):
        x = LEFT + index * 128
        yield f'<rect x="{x}" y="34" width="12" height="12" fill="{COLOURS[gateway]}"/>'
        yield f'<text x="{x + 18}" y="44">{escape(gateway)}</text>'


def _panel(top, outcome, connections_list, bars, scale, bars_at_most):
    bottom, inner = top + PANEL_HEIGHT, WIDTH - LEFT - RIGHT
    for tick in scale.ticks():
        y = bottom - scale.share(tick) * PANEL_HEIGHT
        if y < top - 1:
            continue
        yield f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#dddddd"/>'
        yield f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:,.6g}</text>'
    group_width = inner / len(connections_list)
    for position, connections in enumerate(connections_list):
        left = LEFT + position * group_width
        here = [(gateway, bars[connections, gateway]) for gateway in ALL if (connections, gateway) in bars]
        width = group_width * BAR_SHARE / bars_at_most
        for index, (gateway, found) in enumerate(here):
            x = left + (group_width - width * len(here)) / 2 + index * width
            yield from _bar(x, bottom, width, found, scale, COLOURS[gateway])
        yield (f'<text x="{left + group_width / 2:.1f}" y="{bottom + 17}" text-anchor="middle">'
               f'{outcome}, {connections} connection{"s" if connections != 1 else ""}</text>')


def _bar(x, bottom, width, found, scale, colour):
    def height(value):
        return min(scale.share(value), 1.0) * PANEL_HEIGHT

    y, middle = bottom - height(found.median), x + width / 2
    yield f'<rect x="{x:.1f}" y="{y:.1f}" width="{width * 0.9:.1f}" height="{height(found.median):.1f}" fill="{colour}"/>'
    yield (f'<line x1="{middle:.1f}" x2="{middle:.1f}" y1="{bottom - height(found.lower):.1f}" '
           f'y2="{bottom - height(found.upper):.1f}" stroke="#222222" stroke-width="1.5"/>')
    median = found.median
    digits = f"{median:,.0f}" if median >= 100 else f"{median:.1f}" if median >= 1 else f"{median:.2g}"
    label_y = bottom - max(height(found.upper), height(found.median)) - 4
    yield f'<text x="{middle:.1f}" y="{label_y:.1f}" text-anchor="middle" font-size="10">{digits}</text>'
