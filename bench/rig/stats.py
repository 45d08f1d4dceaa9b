"""From bursts to statements: medians, quartiles, ratios pair by pair.

The machines are noisy. Two bursts that follow each other share the noise, so a
ratio is taken within each round and only then summed up. Disturbance makes
things slower, hardly ever faster: for a cost, the lower quartile is nearer to
the truth than the mean.
"""

import statistics
from dataclasses import dataclass


@dataclass
class Summary:
    """Middle and quartiles of one figure over all rounds."""

    lower: float
    median: float
    upper: float

    @property
    def spread(self):
        """How far the quartiles are apart, as a share of the median."""
        return (self.upper - self.lower) / self.median if self.median else 0.0


@dataclass(frozen=True)
class Cell:
    """Which bursts: all of one kind, one per round."""

    stage: str
    gateway: str
    outcome: str
    connections: int
    variant: str = ""


def summary(values):
    """None where there are no values."""
    values = [value for value in values if value is not None]
    if not values:
        return None
    if len(values) < 2:
        return Summary(values[0], values[0], values[0])
    lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
    return Summary(lower, median, upper)


def of(samples, cell):
    """The bursts of one cell, by round."""
    return [sample for sample in samples if sample.cell == cell]


def figure(samples, cell, name):
    """One figure of one cell, or None where it was not measured."""
    return summary(getattr(sample, name) for sample in of(samples, cell))


def ratio(samples, ours, yardstick, name):
    """One over the other, pair by pair; None where either is missing."""
    return summary(a / b for a, b in pairs(samples, ours, yardstick, name) if b)


def difference(samples, ours, yardstick, name):
    """One less the other, pair by pair; None where either is missing."""
    return summary(a - b for a, b in pairs(samples, ours, yardstick, name))


def pairs(samples, ours, yardstick, name):
    """What both showed in the same rounds."""
    mine = _by_round(samples, ours, name)
    theirs = _by_round(samples, yardstick, name)
    return [(mine[number], theirs[number]) for number in sorted(mine.keys() & theirs.keys())]


def _by_round(samples, cell, name):
    found = {sample.round: getattr(sample, name) for sample in of(samples, cell)}
    return {number: value for number, value in found.items() if value is not None}
