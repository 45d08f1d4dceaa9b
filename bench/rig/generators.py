"""The programs that make load, and reading what they print.

wrk sends as fast as answers come back (a closed loop), oha at a constant rate
whether or not they do (an open loop, so that waiting is counted), h2load speaks
HTTP/2. Each gives a `Burst`.
"""

import json
import os
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from rig.names import PROMPT, STATUSES, TEAMS
from rig.processes import RigError, run_bounded

REPOSITORY = Path(__file__).resolve().parent.parent.parent
SCRIPT = REPOSITORY / "bench/wrk.lua"
TOOLS = REPOSITORY / "target/tools/bin"
# A generator waits for its last answers, and for a busy machine.
SLACK_SECONDS = 20
WRK, OHA, H2LOAD = "wrk", "oha", "h2load"
# HTTP/2: as many starts at once as with 64 connections of HTTP/1.
H2_CONNECTIONS, H2_STREAMS = 8, 8


@dataclass
class Load:
    """How a burst asks."""

    connections: int
    seconds: int
    generator: str = WRK
    per_second: int = 0  # open loop: the constant rate
    teams: int = 0  # of how many teams one is drawn for each start; 0: always the same
    body_bytes: int = 0  # 0: the usual prompt
    threads: int = 1
    exact: bool = False  # wrk counts every status, which costs it as much as the answers do


@dataclass
class Burst:
    """What came back. Latencies in microseconds, None where the generator tells none."""

    requests: int
    seconds: float
    statuses: dict  # status to number; may be empty, then at_least_400 counts
    at_least_400: int
    troubles: dict = field(default_factory=dict)  # what went wrong on the way, to number
    percentiles_us: dict = field(default_factory=dict)  # "50", "99.9" … to microseconds
    bytes: int = 0  # received, where the generator tells


def run(gateway, outcome, load, cpus):
    """One burst of load."""
    argv = {WRK: wrk_argv, OHA: oha_argv, H2LOAD: h2load_argv}[load.generator](gateway, outcome, load)
    output = run_bounded(argv, cpus, load.seconds + SLACK_SECONDS)
    return {WRK: read_wrk, OHA: read_oha, H2LOAD: read_h2load}[load.generator](output)


def found_tool(name):
    """A tool on the PATH or where scripts/setup puts what it builds."""
    found = shutil.which(name, path=f"{os.environ['PATH']}:{TOOLS}")
    if found is None:
        raise RigError(f"{name} is not installed; `make bench` installs it")
    return found


def wrk_argv(gateway, outcome, load):
    team = f"random:{load.teams}" if load.teams else TEAMS[outcome]
    body = f"bytes:{load.body_bytes}" if load.body_bytes else PROMPT
    return ["wrk", f"-t{load.threads}", "-c", load.connections, "-d", f"{load.seconds}s", "--timeout", "5s",
            "-s", SCRIPT, gateway.url, "--", team, body, "count" if load.exact else "fast"]


def read_wrk(output):
    """The line that wrk.lua prints."""
    for line in output.splitlines():
        if line.startswith("RESULT "):
            told = json.loads(line.removeprefix("RESULT "))
            break
    else:
        raise RigError(f"wrk printed no result:\n{output}")
    return Burst(
        told["requests"], told["microseconds"] / 1e6,
        {int(status): count for status, count in told["statuses"].items()},
        told["at_least_400"],
        {f"{name} errors": told[name] for name in ("connect", "read", "write", "timeout") if told[name]},
        told["percentiles_us"], told["bytes"],
    )


def oha_argv(gateway, outcome, load):
    return [found_tool(OHA), "--no-tui", "--output-format", "json", "--worker-threads", 1,
            "-z", f"{load.seconds}s", "-w", "-c", load.connections, "-q", load.per_second, "--latency-correction",
            "-t", "5s", "-m", "POST", "-T", "application/json", "-H", f"x-team-id: {TEAMS[outcome]}",
            "-d", PROMPT, "--disable-compression", "--redirect", 0, gateway.url]


def read_oha(output):
    told = json.loads(output)
    statuses = {int(status): count for status, count in told["statusCodeDistribution"].items()}
    percentiles = {name.removeprefix("p"): seconds * 1e6
                   for name, seconds in told["latencyPercentiles"].items() if seconds is not None}
    return Burst(
        sum(statuses.values()), told["summary"]["total"], statuses,
        sum(count for status, count in statuses.items() if status >= 400),
        dict(told["errorDistribution"]), percentiles,
    )


def h2load_argv(gateway, outcome, load):
    # It reads its body from a file only.
    body = gateway.program.log.parent / "prompt.json"
    body.write_text(PROMPT)
    return ["h2load", "-t", load.threads, "-c", H2_CONNECTIONS, "-m", H2_STREAMS, "-D", load.seconds, "-d", body,
            "-H", f"x-team-id: {TEAMS[outcome]}", "-H", "content-type: application/json", gateway.url]


def read_h2load(output):
    finished = re.search(r"^finished in ([\d.]+)(us|ms|s),", output, re.MULTILINE)
    counts = re.search(r"^requests: .*?(\d+) done, \d+ succeeded, \d+ failed, (\d+) errored, (\d+) timeout",
                       output, re.MULTILINE)
    classes = re.search(r"^status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", output, re.MULTILINE)
    if not (finished and counts and classes):
        raise RigError(f"h2load printed no result:\n{output}")
    done, errored, timed_out = map(int, counts.groups())
    second, third, fourth, fifth = map(int, classes.groups())
    # It tells classes only. Of 4xx a refusal is 403; all else was looked at one by one before.
    statuses = {status: count for status, count in
                ((STATUSES["admitted"], second), (300, third), (STATUSES["refused"], fourth), (500, fifth)) if count}
    unit = {"us": 1e-6, "ms": 1e-3, "s": 1.0}[finished.group(2)]
    # What was on its way at the end is neither done nor an error.
    troubles = {name: count for name, count in (("errored", errored), ("timeout", timed_out)) if count}
    return Burst(done, float(finished.group(1)) * unit, statuses, fourth + fifth, troubles)


def redis_round_trip(port, key, cpus, requests=20_000):
    """The median of a GET over one kept connection, in microseconds."""
    output = run_bounded(["redis-benchmark", "-h", "127.0.0.1", "-p", port, "-c", 1, "-n", requests, "--csv",
                          "GET", key], cpus, 60)
    return read_redis_benchmark(output)


def read_redis_benchmark(output):
    lines = [[cell.strip('"') for cell in line.split('","')] for line in output.strip().splitlines()]
    head = next((line for line in lines if "p50_latency_ms" in line), None)
    if head is None or lines[-1] is head:
        raise RigError(f"redis-benchmark printed no result:\n{output}")
    return float(lines[-1][head.index("p50_latency_ms")]) * 1e3
