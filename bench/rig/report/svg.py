"""Drawing primitives: scales, axes and marks as SVG text.

Charts are narrow, so that on a phone, where they shrink, their words can still
be read. Colours come from the page's CSS by the class of a series, so that one
drawing serves light and dark.
"""

from html import escape
from math import floor, log10

WIDTH, HEIGHT = 460, 300
LEFT, RIGHT, TOP, BOTTOM = 56, 18, 14, 44


class Linear:
    """Value to share of an axis that begins at zero."""

    def __init__(self, values, room=1.1):
        self.top = max([value for value in values if value is not None], default=1.0) * room or 1.0

    def share(self, value):
        return max(0.0, min(value / self.top, 1.0))

    def ticks(self, wanted=5):
        raw = self.top / wanted
        power = 10 ** floor(log10(raw))
        step = next(power * nice for nice in (1, 2, 2.5, 5, 10) if power * nice >= raw)
        return [index * step for index in range(int(self.top / step) + 1)]


class Logarithmic:
    """Value to share of a logarithmic axis that begins and ends at 1, 2 or 5 times a power of ten."""

    def __init__(self, values):
        positive = [value for value in values if value and value > 0] or [1.0]
        steps = [10.0 ** power * nice for power in range(-4, 8) for nice in (1, 2, 5)]
        self.low = max([step for step in steps if step <= min(positive)], default=steps[0])
        self.high = min([step for step in steps if step >= max(positive) and step > self.low], default=steps[-1])
        self._steps = [step for step in steps if self.low <= step <= self.high]

    def share(self, value):
        if value <= 0:
            return 0.0
        return max(0.0, min(log10(value / self.low) / log10(self.high / self.low), 1.0))

    def ticks(self, _wanted=5):
        # Of many decades the powers of ten suffice.
        few = [step for step in self._steps if f"{step:e}".startswith("1.0")]
        return few if len(few) > 4 else self._steps


class Nines:
    """Percentiles, as far apart as the shares of the starts beyond them are in powers of ten."""

    def __init__(self, percentiles):
        self.percentiles = list(percentiles)
        self._far = max(map(self._nines, self.percentiles))
        self._near = min(map(self._nines, self.percentiles))

    @staticmethod
    def _nines(percentile):
        return -log10(1 - float(percentile) / 100)

    def share(self, percentile):
        return (self._nines(percentile) - self._near) / ((self._far - self._near) or 1.0)

    def ticks(self, _wanted=5):
        return self.percentiles


class Places:
    """Named places on an axis, evenly spread: for connections and teams."""

    def __init__(self, places):
        self.places = list(places)

    def share(self, place):
        if len(self.places) < 2:
            return 0.5
        return self.places.index(place) / (len(self.places) - 1)

    def ticks(self, _wanted=5):
        return self.places


def number(value):
    """Short, with as many digits as can be meant."""
    if value >= 1e6 and value % 1e5 == 0:
        return f"{value / 1e6:g}M"
    if value >= 10_000 and value % 100 == 0:
        return f"{value / 1e3:g}k"
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def svg(title, parts, height=HEIGHT):
    """A whole drawing; the title is read out, not drawn: the page has it as caption."""
    return (f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">'
            + "".join(parts) + "</svg>")


def text(x, y, words, anchor="start", kind=""):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">{escape(str(words))}</text>'


def line(x1, y1, x2, y2, kind):
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


class Plot:
    """The frame of a chart of lines: two axes with ticks, units and a grid."""

    def __init__(self, x, y, x_label, y_label, right=RIGHT, x_format=number, y_format=number):
        self.x_scale, self.y_scale, self.right = x, y, right
        self.parts = []
        bottom = HEIGHT - BOTTOM
        for tick in y.ticks():
            at = self.y(tick)
            self.parts += [line(LEFT, at, WIDTH - right, at, "grid"),
                           text(LEFT - 6, at + 4, y_format(tick), "end", "tick")]
        for tick in x.ticks():
            self.parts += [line(self.x(tick), bottom, self.x(tick), bottom + 4, "axis"),
                           text(self.x(tick), bottom + 17, x_format(tick), "middle", "tick")]
        self.parts += [line(LEFT, bottom, WIDTH - right, bottom, "axis"),
                       text((LEFT + WIDTH - right) / 2, HEIGHT - 6, x_label, "middle", "label"),
                       f'<text transform="translate(12 {(TOP + bottom) / 2:.0f}) rotate(-90)" '
                       f'text-anchor="middle" class="label">{escape(y_label)}</text>']
        self._ends = []

    def x(self, value):
        return LEFT + self.x_scale.share(value) * (WIDTH - LEFT - self.right)

    def y(self, value):
        return HEIGHT - BOTTOM - self.y_scale.share(value) * (HEIGHT - TOP - BOTTOM)

    def series(self, name, points, dashed=False, hollow=()):
        """A line with marks; points of `hollow` are marked as doubtful. Named at its end."""
        if not points:
            return
        path = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)
        self.parts.append(f'<polyline points="{path}" class="line s-{name}{" dashed" if dashed else ""}"/>')
        for index, (x, y) in enumerate(points):
            kind = "hollow" if index in hollow else "mark"
            self.parts.append(f'<circle cx="{self.x(x):.1f}" cy="{self.y(y):.1f}" r="3.2" class="{kind} s-{name}"/>')
        self._ends.append((self.y(points[-1][1]), name, self.x(points[-1][0])))

    def band(self, name, points):
        """From the lower to the upper quartile, behind a line: (x, lower, upper)."""
        if len(points) < 2:
            return
        there = [f"{self.x(x):.1f},{self.y(upper):.1f}" for x, _, upper in points]
        back = [f"{self.x(x):.1f},{self.y(lower):.1f}" for x, lower, _ in reversed(points)]
        self.parts.append(f'<polygon points="{" ".join(there + back)}" class="band s-{name}"/>')

    def drawn(self, title, names):
        """With each line's name beside its end."""
        ends = sorted(self._ends)
        for at, (_, name, x) in zip(apart([y for y, *_ in ends], 13, HEIGHT - BOTTOM), ends):
            self.parts.append(text(x + 8, at + 4, names.get(name, name), "start", f"name t-{name}"))
        return svg(title, self.parts)


def apart(places, distance, last):
    """Ascending places, moved so that each is so far from the one before, and none beyond the last."""
    moved = []
    for place in places:
        moved.append(max(place, moved[-1] + distance) if moved else place)
    for index in range(len(moved) - 1, -1, -1):
        moved[index] = min(moved[index], last)
        last = moved[index] - distance
    return moved


def bars(title, rows, unit, label_width=118):
    """Horizontal bars from zero: (series, name, summary) each; a whisker from quartile to quartile."""
    scale = Linear([found.upper for _, _, found in rows], 1.22)
    step, top = 30, 8
    height = top + step * len(rows) + 40
    left, inner = label_width, WIDTH - label_width - 12
    parts = []
    for tick in scale.ticks(4):
        x = left + scale.share(tick) * inner
        parts += [line(x, top, x, height - 36, "grid"), text(x, height - 22, number(tick), "middle", "tick")]
    parts.append(text(left + inner / 2, height - 5, unit, "middle", "label"))
    for index, (series, name, found) in enumerate(rows):
        y = top + index * step + 5
        x, lower, upper = (left + scale.share(value) * inner for value in (found.median, found.lower, found.upper))
        parts += [
            text(left - 8, y + 14, name, "end", f"name t-{series}"),
            f'<rect x="{left}" y="{y}" width="{x - left:.1f}" height="20" class="bar s-{series}"/>',
            line(lower, y + 10, upper, y + 10, "whisker"),
            text(upper + 6, y + 14.5, number(found.median), "start", "value"),
        ]
    parts.append(line(left, top, left, height - 36, "axis"))
    return svg(title, parts, height)
