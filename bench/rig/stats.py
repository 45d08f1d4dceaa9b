"""From bursts to statements: medians, quartiles, ratios pair by pair.

The machines are noisy. Two bursts that follow each other share the noise, so a
ratio is taken within each round and only then summed up. Disturbance makes
things slower, hardly ever faster: for a cost, the lower quartile is nearer to
the truth than the mean.
"""

import statistics
from dataclasses import dataclass

from rig.gateways import (
    ADMITTED, BARE_PINGORA, NGINX_LUA, REFUSED, TOLLGATE, TOLLGATE_BEFORE, TOLLGATE_HOLD, TOLLGATE_RUNS,
    TOLLGATE_WAYS,
)

# Above this spread (quartiles apart, over the median) of the yardstick's CPU
# time per request, the machine was too busy for a verdict.
TOO_NOISY = 0.15
# The same for the share of the CPUs that other programs and machines had.
TOO_BUSY = 0.10
TARGET_CONNECTIONS = 64
RATIO_FIGURES = ("gateway_cpu_us", "redis_cpu_us", "requests_per_second", "p50_us", "p99_us")
# What is shipped at most: (outcome, what, measured against, ratio of CPU per request).
TARGETS = (
    (ADMITTED, TOLLGATE, BARE_PINGORA, 1.25),
    (REFUSED, TOLLGATE, NGINX_LUA, 0.80),
    (ADMITTED, TOLLGATE_HOLD, TOLLGATE, 1.30),
)


@dataclass
class Summary:
    """Middle and quartiles of one figure over all rounds."""

    lower: float
    median: float
    upper: float

    @property
    def spread(self):
        return (self.upper - self.lower) / self.median if self.median else 0.0


def summary(values):
    values = list(values)
    if len(values) < 2:
        return Summary(values[0], values[0], values[0])
    lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
    return Summary(lower, median, upper)


def of(samples, gateway, outcome, connections):
    """The bursts of one cell, by round."""
    return [s for s in samples
            if (s.gateway, s.outcome, s.connections) == (gateway, outcome, connections)]


def figure(samples, gateway, outcome, connections, name):
    """One figure of one cell, or None where it was not measured."""
    cell = of(samples, gateway, outcome, connections)
    return summary(getattr(s, name) for s in cell) if cell else None


def ratio(samples, what, yardstick, outcome, connections, name, yardstick_outcome=None):
    """One over the other, pair by pair; None where either is missing."""
    ours = {s.round: getattr(s, name) for s in of(samples, what, outcome, connections)}
    theirs = {s.round: getattr(s, name)
              for s in of(samples, yardstick, yardstick_outcome or outcome, connections)}
    pairs = [ours[r] / theirs[r] for r in sorted(ours.keys() & theirs.keys()) if theirs[r]]
    return summary(pairs) if pairs else None


def ratios(samples, connections_list):
    """Every ratio that is reported: (words, connections, {figure: Summary})."""
    comparisons = (
        ("admitted: tollgate / bare-pingora", TOLLGATE, ADMITTED, BARE_PINGORA, ADMITTED),
        ("admitted: tollgate / nginx-lua", TOLLGATE, ADMITTED, NGINX_LUA, ADMITTED),
        ("admitted: tollgate-hold / tollgate", TOLLGATE_HOLD, ADMITTED, TOLLGATE, ADMITTED),
        ("admitted: tollgate-runs / tollgate", TOLLGATE_RUNS, ADMITTED, TOLLGATE, ADMITTED),
        ("admitted: tollgate-ways / tollgate", TOLLGATE_WAYS, ADMITTED, TOLLGATE, ADMITTED),
        ("admitted: tollgate / tollgate-before", TOLLGATE, ADMITTED, TOLLGATE_BEFORE, ADMITTED),
        ("refused: tollgate-ways / tollgate", TOLLGATE_WAYS, REFUSED, TOLLGATE, REFUSED),
        ("refused: tollgate / tollgate-before", TOLLGATE, REFUSED, TOLLGATE_BEFORE, REFUSED),
        ("refused: tollgate / nginx-lua", TOLLGATE, REFUSED, NGINX_LUA, REFUSED),
        ("refused: tollgate-hold / tollgate", TOLLGATE_HOLD, REFUSED, TOLLGATE, REFUSED),
        ("tollgate refused / bare-pingora admitted", TOLLGATE, REFUSED, BARE_PINGORA, ADMITTED),
    )
    for words, what, outcome, yardstick, yardstick_outcome in comparisons:
        for connections in connections_list:
            found = {name: ratio(samples, what, yardstick, outcome, connections, name, yardstick_outcome)
                     for name in RATIO_FIGURES
                     # Bare Pingora asks Redis nothing: there is nothing to divide by.
                     if name != "redis_cpu_us" or yardstick != BARE_PINGORA}
            if found["gateway_cpu_us"]:
                yield words, connections, found


def verdicts(samples, cpu_elsewhere):
    """One sentence per target; cpu_elsewhere is the share of the CPUs that others had."""
    for outcome, ours, yardstick, limit in TARGETS:
        what = f"{outcome}, {TARGET_CONNECTIONS} connections, CPU per request, {ours}/{yardstick}"
        found = ratio(samples, ours, yardstick, outcome, TARGET_CONNECTIONS, "gateway_cpu_us")
        if not found:
            yield f"not measured: {what}"
            continue
        noise = figure(samples, yardstick, outcome, TARGET_CONNECTIONS, "gateway_cpu_us").spread
        what += f": median {found.median:.3f}, lower quartile {found.lower:.3f}, limit {limit:.2f}"
        if cpu_elsewhere > TOO_BUSY:
            yield f"too noisy for a verdict: {what}; others had {cpu_elsewhere:.0%} of the CPUs, more than {TOO_BUSY:.0%}"
        elif noise > TOO_NOISY:
            yield f"too noisy for a verdict: {what}; {yardstick} itself varies by {noise:.0%}, more than {TOO_NOISY:.0%}"
        elif found.median <= limit:
            yield f"met: {what}"
        elif found.lower <= limit:
            yield f"undecided: {what}; run it again on a quieter machine"
        else:
            yield f"MISSED: {what}"
