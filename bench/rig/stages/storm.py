"""What admitted teams wait for while 10,000 connections of refused teams storm: bench/storm.py.

That is a program of its own. It takes `--json FILE` and `--quick`, and writes
{"samples": [{"memory": "250ms" or null, "quiet": {"p99_ms": …}, "storm": {"p99_ms": …}}, …]},
a round each with the memory of refusals and without.
"""

from rig.children import figures_of
from rig.generators import REPOSITORY

STAGE = "storm"
SCRIPT = REPOSITORY / "bench/storm.py"
BOUND_SECONDS, BOUND_SECONDS_QUICK = 400, 140


def seconds(options):
    if not SCRIPT.exists():
        return 0
    return 36 if options.quick else 165


def run(rig):
    if not SCRIPT.exists():
        rig.results.not_measured[STAGE] = "bench/storm.py is not there"
        return
    quick = rig.options.quick
    rig.results.storm = figures_of(rig, SCRIPT, BOUND_SECONDS_QUICK if quick else BOUND_SECONDS,
                                   *(["--quick"] if quick else []))


def p99s(storm, remembering):
    """The 99th percentiles of admitted starts, (quiet, storm) of each round, with the memory of refusals or without."""
    return [(sample["quiet"]["p99_ms"], sample["storm"]["p99_ms"]) for sample in storm.get("samples", ())
            if (sample["memory"] is not None) == remembering]
