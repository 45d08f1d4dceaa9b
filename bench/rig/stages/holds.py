"""How many holds one Redis core carries: bench/holds.py."""

from rig.children import figures_of
from rig.generators import REPOSITORY

STAGE = "holds"
BOUND_SECONDS = 300


def seconds(options):
    return 15 if options.quick else 60


def run(rig):
    rounds, requests = (3, 30_000) if rig.options.quick else (5, 100_000)
    rig.results.holds = figures_of(rig, REPOSITORY / "bench/holds.py", BOUND_SECONDS,
                                   "--rounds", rounds, "--requests", requests)
