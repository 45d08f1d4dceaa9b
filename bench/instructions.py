#!/usr/bin/env python3
"""User instructions and allocations per request of a gateway, counted by callgrind.

Time depends on what else the machine does; instructions hardly do. The gateway
runs under valgrind and gets an exact number of requests over connections that
are there already, some times; the median is told, and the spread: greatest less
least, by the median.

    bench/instructions.py --gateways bare-pingora tollgate --outcome admitted
"""

import argparse
import sys
import tempfile
from pathlib import Path

from rig import callgrind, names
from rig.callgrind import How
from rig.processes import RigError
from rig.rig import Options, Rig
from rig.stages import instructions


def main():
    options = arguments()
    with tempfile.TemporaryDirectory(prefix="tollgate-instructions-") as folder:
        # On all CPUs, wherever they are free: here nothing depends on time.
        rig = Rig(Options(gateways=tuple(options.gateways)), Path(folder), options.before, unpinned=True)
        how = How(options.connections, options.requests, options.repeat)
        try:
            instructions.count(rig, options.gateways, options.outcome, how, lambda *found: tell(options.keep, *found))
        except RigError as error:
            print(f"instructions: {error}", file=sys.stderr)
            return 1
    return 0


def tell(folder, counted, dump):
    print(counted, flush=True)
    if folder:
        callgrind.keep(folder, counted, dump)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gateways", nargs="+", choices=instructions.COUNTABLE,
                        default=[names.BARE_PINGORA, names.TOLLGATE])
    parser.add_argument("--outcome", nargs="+", choices=instructions.OUTCOMES, default=instructions.OUTCOMES)
    parser.add_argument("--connections", type=int, default=How.connections)
    parser.add_argument("--requests", type=int, default=How.requests, help="in each repetition")
    parser.add_argument("--repeat", type=int, default=How.repeat)
    parser.add_argument("--before", type=Path, metavar="PROGRAM", help="another build, as tollgate-before")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep callgrind's files, for callgrind_annotate")
    options = parser.parse_args()
    if names.TOLLGATE_BEFORE in options.gateways and options.before is None:
        parser.error(f"{names.TOLLGATE_BEFORE} needs --before PROGRAM")
    options.before = options.before and options.before.resolve()
    return options


if __name__ == "__main__":
    sys.exit(main())
