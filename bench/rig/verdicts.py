"""Measured against a limit: met, missed, or why nothing can be said.

For a cost the lower quartile over the rounds counts, because disturbance only
ever adds to it. Where the yardstick itself varied, or others had the CPUs,
there is no verdict, however good or bad the figure looks.
"""

from dataclasses import dataclass, field

from rig.stats import Summary

MET, MISSED, UNDECIDED = "met", "missed", "undecided"
TOO_NOISY, NOT_MEASURED = "too noisy", "not measured"

# Above this spread (quartiles apart, over the median) of the yardstick, the
# machine was too busy for a verdict.
NOISE_MAX = 0.15
# The same for the share of the CPUs that other programs and machines had.
ELSEWHERE_MAX = 0.10
# Nearer to the limit than this, a second run could say the opposite.
TOO_CLOSE = 0.02


@dataclass
class Row:
    """One line of the target table."""

    what: str  # in plain words
    target: str
    measured: str = "-"
    verdict: str = NOT_MEASURED
    why: str = ""
    figures: dict = field(default_factory=dict)


def judge_cost(found, limit):
    """What costs less is better, and its lower quartile counts."""
    if abs(found.lower / limit - 1) <= TOO_CLOSE and found.median > limit:
        return UNDECIDED
    return MET if found.lower <= limit else MISSED


def judge_middle(found, limit):
    """The median counts. Not missed while the lower quartile is within the limit."""
    if found.median <= limit:
        return MET
    return UNDECIDED if found.lower <= limit else MISSED


def judge_gain(found, at_least):
    """What is more is better: a cost turned round."""
    if abs(found.upper / at_least - 1) <= TOO_CLOSE and found.median < at_least:
        return UNDECIDED
    return MET if found.upper >= at_least else MISSED


def judge_exact(value, limit):
    """What is counted and not timed."""
    return MET if value <= limit else MISSED


def judge_repeated(ours, theirs, limit):
    """What is counted some times: whichever of the counts are compared, they have to say the same."""
    verdicts = {judge_exact(one / other, limit) for one in ours for other in theirs}
    return verdicts.pop() if len(verdicts) == 1 else UNDECIDED


def noise_of(yardstick, elsewhere, name):
    """Why the machine was too noisy for a verdict, or an empty string."""
    if elsewhere > ELSEWHERE_MAX:
        return f"others had {elsewhere:.0%} of the CPUs, more than {ELSEWHERE_MAX:.0%}"
    if yardstick is not None and yardstick.spread > NOISE_MAX:
        return f"{name} itself varied by {yardstick.spread:.0%} between quartiles, more than {NOISE_MAX:.0%}"
    return ""


def by_instructions(row, counted):
    """Time that is too near to the limit: what the instructions say, decides."""
    if row.verdict == UNDECIDED and counted.verdict in (MET, MISSED):
        row.verdict = counted.verdict
        row.why = "too close to tell by time; the instructions decide"
    return row


def as_figures(found):
    return {"lower_quartile": found.lower, "median": found.median, "upper_quartile": found.upper}


def in_words(found: Summary, digits=2):
    """A cost: what counts first."""
    return f"{found.lower:.{digits}f} (median {found.median:.{digits}f})"
