"""How much more two threads do than one.

Two threads need two CPUs of their own, and load, upstream and Redis two more.
On a smaller machine the figure is taken all the same, and not judged.
"""

import os

from rig import names
from rig.generators import Load
from rig.names import ADMITTED
from rig.timing import bursts_seconds

STAGE = "threads"
CONNECTIONS = 64
CPUS_NEEDED = 4


def seconds(options):
    if left_out(options):
        return 0
    return bursts_seconds(2, options.rounds, options.seconds)


def left_out(options):
    """A quick run takes no figure that cannot be judged."""
    return options.quick and len(os.sched_getaffinity(0)) < CPUS_NEEDED


def run(rig):
    options = rig.options
    if left_out(options):
        rig.results.not_measured[STAGE] = f"too few CPUs ({CPUS_NEEDED} are needed); a full run takes a figure all the same"
        return
    wanted = rig.wanted(names.TOLLGATE, names.TOLLGATE_THREADS)
    with rig.bench(wanted, STAGE) as (bench, driver, _):
        load = Load(CONNECTIONS, options.seconds, threads=2)
        rig.interleaved(driver, [(gateway, ADMITTED, load, "") for gateway in bench.gateways], options.rounds)
