#!/usr/bin/env python3
"""The load test behind `make bench`: what does tollgate cost, against what?

Starts everything on the loopback interface, sends short interleaved bursts of
load, writes a report into bench-results/, and stops everything it started.
Exit status: 0 measured (whatever the verdicts), 1 something could not be
measured or an answer was wrong, 130 stopped.
"""

import argparse
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rig import machine, names, report, stages
from rig.generators import REPOSITORY
from rig.processes import RigError
from rig.rig import Options, Rig

# Two descriptors per connection at the gateway, and room for the rest; the
# stage `memory` wants more and is left out where it cannot have them.
DESCRIPTORS, DESCRIPTORS_WANTED = 8_192, 65_536
# A stage may take so much longer than planned before it is stopped.
BOUND_FACTOR, BOUND_MORE_SECONDS = 2, 90


def main():
    options, chosen, arguments = understood()
    if arguments.again:
        print(report.write_again(arguments.again))
        return 0
    # All end the blocks below, and so stop the programs. SIGINT is named because
    # a shell script's background jobs are started with it ignored.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    signal.signal(signal.SIGALRM, too_long)
    planned = {name: stages.ALL[name].seconds(options) for name in chosen}
    print(f"{', '.join(chosen)}; {options.rounds} rounds of {options.seconds} s: about "
          f"{sum(planned.values()) / 60:.0f} min", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="tollgate-bench-"))
    try:
        raise_descriptor_limit()
        rig = Rig(options, folder, arguments.before, arguments.unpinned)
        started = time.monotonic()
        for name in chosen:
            run_stage(rig, name, planned[name])
        return write_report(rig, chosen, time.monotonic() - started)
    except RigError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: stopped; nothing was written", file=sys.stderr)
        return 130
    finally:
        signal.alarm(0)
        shutil.rmtree(folder, ignore_errors=True)


def run_stage(rig, name, planned):
    """One stage; what goes wrong in it is told in the report and ends no other."""
    print(f"{name}: about {planned:.0f} s", flush=True)
    started, cpu = time.monotonic(), machine.CpuShares()
    signal.alarm(int(planned * BOUND_FACTOR + BOUND_MORE_SECONDS))
    try:
        stages.ALL[name].run(rig)
    except (RigError, OSError, ValueError, subprocess.SubprocessError) as error:
        rig.results.failed[name] = str(error)
        print(f"{name}: FAILED: {error}", file=sys.stderr, flush=True)
    signal.alarm(0)
    took = time.monotonic() - started
    rig.results.took_seconds[name] = took
    rig.results.elsewhere[name] = sum(cpu.shares())
    wrong = sum(sample.wrong for sample in rig.results.of_stage(name))
    print(f"{name}: {took:.0f} s" + (f", {wrong} WRONG ANSWERS" if wrong else ""), flush=True)


def write_report(rig, chosen, took):
    facts = machine.facts(REPOSITORY)
    pinned = rig.gateway_cpus != rig.other_cpus
    options = rig.options
    settings = {
        "run": "quick: a first look, no claim" if options.quick else "full",
        "stages": ", ".join(chosen),
        "rounds": options.rounds,
        "seconds": options.seconds,
        "connections": ", ".join(map(str, options.connections)),
        "pinning": f"gateway on CPU {sorted(rig.gateway_cpus)}, everything else on {sorted(rig.other_cpus)}"
                   if pinned else "none",
        "threads": "1 per gateway and generator",
        "took": f"{took / 60:.1f} min",
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }
    folder = REPOSITORY / "bench-results" / time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    folder.mkdir(parents=True)
    print("\n" + report.write(folder, facts, settings, rig.results))
    print(f"written to {folder.relative_to(REPOSITORY)}/: report.html, report.txt, report.json")
    return 1 if rig.results.wrong() or rig.results.failed else 0


def raise_descriptor_limit():
    """As high as is wanted where that is allowed (root may go over the hard limit), or as it is."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < DESCRIPTORS_WANTED:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS_WANTED, DESCRIPTORS_WANTED))
            return
        except (ValueError, OSError):
            pass
    else:
        hard = DESCRIPTORS_WANTED
    if hard < DESCRIPTORS:
        raise RigError(f"at most {hard} open files are allowed here, {DESCRIPTORS} are needed: see `ulimit -Hn`")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


def too_long(*_):
    raise RigError("took more than twice as long as planned; is the machine busy?")


def understood():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="3 rounds of 1 s and less of everything, under five minutes")
    parser.add_argument("--only", nargs="+", choices=stages.ALL, metavar="STAGE",
                        help=f"some of the stages: {', '.join(stages.ALL)}")
    parser.add_argument("--rounds", type=int, help="default 7; at least 3")
    parser.add_argument("--seconds", type=int, help="of one burst; default 2")
    parser.add_argument("--connections", type=int, nargs="+", help="of the stage proxying; default 1 64 512")
    parser.add_argument("--gateways", nargs="+", choices=names.ALL, default=[])
    parser.add_argument("--before", type=Path, metavar="PROGRAM",
                        help="another build of tollgate, measured beside this one as tollgate-before")
    parser.add_argument("--after-minutes", type=float, default=float(os.environ.get("MEMORY_MINUTES", "10")),
                        help="memory: how long after a burst it is looked at last (MEMORY_MINUTES; default 10)")
    parser.add_argument("--unpinned", action="store_true", help="leave the choice of CPUs to the kernel")
    parser.add_argument("--again", type=Path, metavar="FOLDER",
                        help="measure nothing; write text and page once more from the report.json there")
    arguments = parser.parse_args()
    gateways = list(arguments.gateways)
    if arguments.before is not None:
        arguments.before = arguments.before.resolve()
        # Beside all others, where none are named.
        gateways = [*(gateways or [one for one in names.ALL if one != names.TOLLGATE_BEFORE]), names.TOLLGATE_BEFORE]
    elif names.TOLLGATE_BEFORE in gateways:
        parser.error(f"{names.TOLLGATE_BEFORE} needs --before PROGRAM")
    quick = arguments.quick
    rounds, seconds = arguments.rounds or (3 if quick else 7), arguments.seconds or (1 if quick else 2)
    if rounds < 3 or seconds < 1:
        parser.error("at least 3 rounds of at least 1 s: fewer say nothing")
    connections = tuple(arguments.connections or ((1, 64) if quick else (1, 64, 512)))
    options = Options(quick, rounds, seconds, connections, tuple(dict.fromkeys(gateways)), arguments.after_minutes)
    usual = [name for name in stages.ALL if not (quick and name in stages.NOT_QUICK)]
    return options, arguments.only or usual, arguments


if __name__ == "__main__":
    sys.exit(main())
