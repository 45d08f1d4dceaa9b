#!/usr/bin/env python3
"""Counts the instructions of the steps of a request, and of whole requests, and
compares them with the bounds in benches/counts.toml.

    bench/counts.py               exit status 1 when something got dearer than its bound
    bench/counts.py --update      what is measured becomes the bound
    bench/counts.py --only steps  or requests; --steps NAME… for some

A step is run by benches/counts.rs under callgrind, twice: the second time twice
as often. The difference, divided by how often it was run the first time, is what
the step costs; everything before and after cancels out. Requests are counted as
instructions.py does. What callgrind wrote stays in target/callgrind, for callgrind_annotate.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rig import callgrind
from rig.generators import REPOSITORY
from rig.names import ADMITTED, BARE_PINGORA, BARE_REFUSAL, PASSED, REFUSED, TOLLGATE
from rig.processes import Programs, RigError, free_ports
from rig.rig import Options, Rig
from rig.stages import instructions

BOUNDS = REPOSITORY / "benches" / "counts.toml"
PROFILES = REPOSITORY / "target" / "callgrind"
# Optimised as what ships, but for inlining across crates: see Cargo.toml.
CARGO_PROFILE = "counts"
STEP_SECONDS = 300

STEPS, REQUESTS = "steps", "requests"
# What a line gets that --update adds.
USUAL_PERCENT = {STEPS: 2.0, REQUESTS: 4.0}
# Steps in which threads or programs take turns: who is faster changes a little.
TAKING_TURNS = {"access_log_line", "refusal_event", "lookup_alone", "lookup_of_64", "hold_alone"}
TAKING_TURNS_PERCENT = 5.0
# The names of requests in the file: those of tollgate as they come out.
COUNTED = {
    (BARE_PINGORA, ADMITTED): "bare_pingora_admitted",
    (TOLLGATE, ADMITTED): "admitted",
    (BARE_REFUSAL, REFUSED): "bare_refusal",
    (TOLLGATE, REFUSED): "refused",
    (BARE_PINGORA, PASSED): "bare_pingora_passed",
    (TOLLGATE, PASSED): "passed",
}
# Over 64 connections: at one, waiting is counted too, and what is done meanwhile.
HOW = callgrind.How(repeat=2)

LINE = re.compile(r"(?P<name>\w+) = \{instructions = (?P<instructions>[\d.]+), allowed_percent = (?P<percent>[\d.]+)\}")


@dataclass
class Bound:
    instructions: float
    percent: float


def main():
    options = arguments()
    PROFILES.mkdir(parents=True, exist_ok=True)
    os.environ["TOLLGATE_PROFILE"] = CARGO_PROFILE
    counts_steps = options.only != REQUESTS
    counts_requests = options.only != STEPS and not options.steps
    try:
        # All at once: what they share is built once, and no CPU waits.
        built = build(*(["--bench", "counts"] if counts_steps else []),
                      *(["--bin", "tollgate", "--example", "bare_proxy"] if counts_requests else []))
        measured = {}
        with tempfile.TemporaryDirectory(prefix="tollgate-counts-") as folder:
            if counts_steps:
                measured[STEPS] = count_steps(Path(folder), built["counts"], options.steps)
            if counts_requests:
                measured[REQUESTS] = count_requests(Path(folder))
        bounds = read(BOUNDS.read_text())
        if options.update:
            # Of what was not measured because nobody asked for it, the bound stays.
            kept = bounds if options.steps else {}
            update(measured, bounds, kept)
            bounds = read(BOUNDS.read_text())
        return compare(measured, bounds, complete=not options.steps)
    except RigError as error:
        print(f"counts: {error}", file=sys.stderr)
        return 1


def build(*what):
    """Builds; returns the programs made, by name."""
    done = subprocess.run(
        ["cargo", "build", "--locked", "--profile", CARGO_PROFILE, "--message-format", "json-render-diagnostics", *what],
        cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise RigError("it does not build")
    messages = map(json.loads, done.stdout.splitlines())
    return {message["target"]["name"]: message["executable"] for message in messages if message.get("executable")}


def count_steps(folder, program, wanted):
    """Instructions of each step, with a Redis of their own."""
    listed = subprocess.run([program], check=True, capture_output=True, text=True, timeout=60).stdout
    steps = {name: int(times) for name, times in map(str.split, listed.splitlines())}
    unknown = set(wanted) - set(steps)
    if unknown:
        raise RigError(f"no such steps: {', '.join(sorted(unknown))}; there are {', '.join(steps)}")
    steps = {name: times for name, times in steps.items() if not wanted or name in wanted}
    cpus = os.sched_getaffinity(0)
    (port,) = free_ports(1)

    def cost(name):
        once, twice = (run_step(program, name, times, port) for times in (steps[name], 2 * steps[name]))
        return (twice - once) / steps[name]

    with Programs(folder) as programs, ThreadPoolExecutor(len(cpus)) as pool:
        programs.start(
            "redis-server",
            ["redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"], port, cpus)
        return dict(zip(steps, pool.map(cost, steps)))


def run_step(program, name, times, redis_port):
    """Instructions of a whole run of one step."""
    done = subprocess.run(
        ["valgrind", "--tool=callgrind", f"--callgrind-out-file={PROFILES / f'{name}.out'}",
         program, name, str(times), f"redis://127.0.0.1:{redis_port}"],
        # A stack begins with the environment: the same for everybody.
        env={"PATH": os.environ["PATH"]},
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=STEP_SECONDS)
    collected = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode != 0 or not collected:
        raise RigError(f"{name} does not run:\n{done.stderr[-2000:]}")
    return int(collected.group(1))


def count_requests(folder):
    """Instructions of each kind of request."""
    measured = {}

    def tell(counted, dump):
        print(counted, flush=True)
        callgrind.keep(PROFILES, counted, dump)
        measured[COUNTED[counted.gateway, counted.outcome]] = counted.instructions

    wanted = tuple({gateway for gateway, _ in COUNTED})
    rig = Rig(Options(gateways=wanted), folder, unpinned=True)
    instructions.count(rig, wanted, instructions.OUTCOMES, HOW, tell)
    return measured


def read(text):
    """The bounds, by section and name."""
    bounds, section = {STEPS: {}, REQUESTS: {}}, None
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() in (f"[{STEPS}]", f"[{REQUESTS}]"):
            section = line.strip()[1:-1]
        elif line.strip() and not line.startswith(("#", "taken_with")):
            found = LINE.match(line)
            if section is None or not found:
                raise RigError(f"{BOUNDS.name}, line {number}: expected `name = {{instructions = N, allowed_percent = N}}`")
            bounds[section][found["name"]] = Bound(float(found["instructions"]), float(found["percent"]))
    return bounds


def compare(measured, bounds, complete):
    """Prints the table; returns the exit status."""
    dearer, cheaper = [], []
    print(f"\n{'':24}{'bound':>12}{'measured':>12}{'difference':>12}{'allowed':>9}")
    for section, figures in measured.items():
        for name, figure in figures.items():
            bound = bounds[section].get(name)
            if bound is None:
                dearer.append(name)
                print(f"{name:24}{'none':>12}{figure:12,.1f}{'':12}{'':9}  NO BOUND")
                continue
            # A step of a few instructions may have one more or less: no code changes by less.
            percent = (figure / bound.instructions - 1) * 100
            over = figure - bound.instructions * (1 + bound.percent / 100) > 0.5
            under = bound.instructions * (1 - bound.percent / 100) - figure > 0.5
            (dearer if over else cheaper if under else []).append(name)
            mark = "  DEARER" if over else "  cheaper" if under else ""
            print(f"{name:24}{bound.instructions:12,.1f}{figure:12,.1f}{percent:+11.2f}%{bound.percent:8.1f}%{mark}")
        if complete:
            gone = bounds[section].keys() - figures.keys()
            dearer.extend(sorted(gone))
            for name in sorted(gone):
                print(f"{name:24} is not measured any more: NO SUCH {section.upper()}")
    here, there = tools(), taken_with()
    if here != there:
        print(f"\nThe bounds were taken with {there}; here is {here}. Differences may come from that.")
    if cheaper:
        print(f"\nCheaper than the bound: {', '.join(cheaper)}. `make counts UPDATE=1` holds what was won.")
    if dearer:
        print(f"\ncounts: dearer than allowed, or without a bound: {', '.join(dearer)}.\n"
              f"Look into what callgrind wrote: callgrind_annotate {PROFILES.relative_to(REPOSITORY)}/….out\n"
              f"If it has to be so: make counts UPDATE=1, and say why in the commit that changes {BOUNDS.relative_to(REPOSITORY)}.")
    return 1 if dearer else 0


def update(measured, bounds, kept):
    """Writes what was measured; allowances and comments stay."""
    text = re.sub(r"^taken_with = .*$", f'taken_with = "{tools()}"', BOUNDS.read_text(), flags=re.MULTILINE)
    for section, figures in measured.items():
        figures = {name: bound.instructions for name, bound in kept.get(section, {}).items()} | figures
        lines = [f"[{section}]"]
        for name, figure in figures.items():
            bound = bounds[section].get(name)
            usual = TAKING_TURNS_PERCENT if name in TAKING_TURNS else USUAL_PERCENT[section]
            percent = bound.percent if bound else usual
            lines.append(f"{name} = {{instructions = {figure:.0f}, allowed_percent = {percent:g}}}")
        old = re.compile(rf"^\[{section}\]\n(?:\w+ = \{{.*\}}\n)*", re.MULTILINE)
        text = old.sub(lambda _: "\n".join(lines) + "\n", text)
    BOUNDS.write_text(text)


def tools():
    """What made the figures, apart from the code."""
    rustc = subprocess.run(["rustc", "--version"], capture_output=True, text=True, check=True).stdout.split()[1]
    valgrind = subprocess.run(["valgrind", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    # Valgrind shows programs a CPU with these or without, and nothing newer.
    vectors = "avx2" if " avx2 " in Path("/proc/cpuinfo").read_text() else "no avx2"
    return f"rustc {rustc}, {valgrind}, {os.confstr('CS_GNU_LIBC_VERSION')}, {os.uname().machine} with {vectors}"


def taken_with():
    found = re.search(r'^taken_with = "(.*)"$', BOUNDS.read_text(), re.MULTILINE)
    return found.group(1) if found else "unknown tools"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--update", action="store_true")
    parser.add_argument("--only", choices=(STEPS, REQUESTS))
    parser.add_argument("--steps", nargs="+", default=[], metavar="NAME")
    options = parser.parse_args()
    if options.steps and options.only == REQUESTS:
        parser.error("--steps and --only requests leave nothing to count")
    return options


if __name__ == "__main__":
    sys.exit(main())
