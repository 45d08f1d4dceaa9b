#!/usr/bin/env python3
"""The load test behind `make bench`: what does tollgate cost, against what?

Starts everything on the loopback interface, sends short interleaved bursts of
load, writes a report into bench-results/, and stops everything it started.
Exit status: 0 measured, 1 could not measure or an answer was wrong, 130 stopped.
"""

import argparse
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from rig import gateways, machine, report
from rig.gateways import Bench
from rig.load import Driver
from rig.processes import Programs, RigError

REPOSITORY = Path(__file__).resolve().parent.parent
# Two descriptors per connection at the gateway, and room for the rest.
DESCRIPTORS = 8192


def main():
    options = arguments()
    # All end the blocks below, and so stop the programs. SIGINT is named because
    # a shell script's background jobs are started with it ignored.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    signal.signal(signal.SIGALRM, too_long)
    bursts = planned_bursts(options)
    expected_seconds = len(bursts) * (options.rounds * (options.seconds + 0.4) + 1.5)
    signal.alarm(int(expected_seconds * 2 + 120))
    print(f"{len(bursts)} kinds of burst, {options.rounds} rounds of {options.seconds} s: "
          f"about {expected_seconds / 60:.0f} min", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="tollgate-bench-"))
    try:
        raise_descriptor_limit()
        return measure_and_report(options, folder)
    except RigError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: stopped; nothing was written", file=sys.stderr)
        return 130
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def measure_and_report(options, folder):
    gateway_cpus, other_cpus = split_cpus(options.unpinned)
    facts = machine.facts(REPOSITORY)
    cpu = machine.CpuShares()
    started = time.monotonic()
    with Programs(folder) as programs:
        bench = Bench(programs, REPOSITORY, options.gateways, gateway_cpus, other_cpus, options.before)
        samples = take_samples(options, bench, Driver(bench, programs, other_cpus))
    others, stolen = cpu.shares()
    facts["cpu_elsewhere"] = f"{others:.1%} in other programs, {stolen:.1%} in other machines"
    settings = {
        "connections": options.connections,
        "rounds": options.rounds,
        "seconds": options.seconds,
        "pinning": "none" if gateway_cpus == other_cpus else
                   f"gateway on CPU {sorted(gateway_cpus)}, everything else on {sorted(other_cpus)}",
        "threads": "1 per gateway, 1 for wrk",
        "took": f"{time.monotonic() - started:.0f} s",
    }
    results = REPOSITORY / "bench-results" / time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    results.mkdir(parents=True)
    print("\n" + report.write(results, facts, settings, samples, others + stolen))
    print(f"written to {results.relative_to(REPOSITORY)}/: report.txt, report.json, *.svg")
    return 1 if any(sample.wrong for sample in samples) else 0


def take_samples(options, bench, driver):
    """Warms everything up, then measures round by round."""
    bursts = [(gateway, outcome, connections)
              for outcome, connections in cells(options)
              for gateway in bench.gateways if outcome in gateway.outcomes]
    for gateway, outcome, connections in bursts:
        driver.warm_up(gateway, outcome, connections, 1)
    samples = []
    for number in range(1, options.rounds + 1):
        # Every other round backwards: what is compared stays side by side, and
        # neither always comes first.
        for burst in bursts if number % 2 else reversed(bursts):
            samples.append(driver.measure(*burst, options.seconds, number))
        wrong = sum(sample.wrong for sample in samples)
        print(f"round {number} of {options.rounds} done" + (f", {wrong} wrong answers" if wrong else ""), flush=True)
    return samples


def cells(options):
    return [(outcome, connections)
            for outcome in (gateways.ADMITTED, gateways.REFUSED)
            for connections in options.connections]


def planned_bursts(options):
    return [(name, cell) for cell in cells(options) for name in options.gateways
            if cell[0] == gateways.ADMITTED or name in gateways.REFUSING]


def split_cpus(unpinned):
    """One CPU for the gateway, the others for load, upstream and Redis.

    The gateway is then what limits throughput, and no scheduler decides who
    disturbs whom.
    """
    cpus = sorted(os.sched_getaffinity(0))
    if unpinned or len(cpus) < 2:
        return set(cpus), set(cpus)
    return {cpus[-1]}, set(cpus[:-1])


def raise_descriptor_limit():
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < DESCRIPTORS:
        raise RigError(f"at most {hard} open files are allowed here, {DESCRIPTORS} are needed: see `ulimit -Hn`")
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, hard))


def too_long(*_):
    raise RigError("took more than twice as long as planned; is the machine busy?")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="3 rounds of 1 s, unless told otherwise")
    parser.add_argument("--rounds", type=int, help="default 7; at least 3")
    parser.add_argument("--seconds", type=int, help="of one burst; default 3")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 64, 512])
    parser.add_argument("--gateways", nargs="+", choices=gateways.ALL, default=list(gateways.USUAL))
    parser.add_argument("--before", type=Path, metavar="PROGRAM",
                        help="another build of tollgate, measured beside this one as tollgate-before")
    parser.add_argument("--unpinned", action="store_true", help="leave the choice of CPUs to the kernel")
    options = parser.parse_args()
    if (options.before is not None) != (gateways.TOLLGATE_BEFORE in options.gateways):
        if options.before is None:
            parser.error(f"{gateways.TOLLGATE_BEFORE} needs --before PROGRAM")
        options.gateways.append(gateways.TOLLGATE_BEFORE)
    options.rounds = options.rounds or (3 if options.quick else 7)
    options.seconds = options.seconds or (1 if options.quick else 3)
    if options.rounds < 3 or options.seconds < 1:
        parser.error("at least 3 rounds of at least 1 s: fewer say nothing")
    return options


if __name__ == "__main__":
    sys.exit(main())
