"""Counting the instructions of a gateway that runs under valgrind's callgrind.

It gets an exact number of requests over connections that are there already; what
callgrind counted between two dumps is divided by them. That is done some times
and the median told, with the spread: greatest less least, by the median. At 64
connections chance decides how many requests share a wake-up, a write or a
question to Redis, and makes a spread of up to one in a hundred; at one
connection few requests come in a second, and what is done by the clock shows.

callgrind counts what one instruction copies (`rep movsb`, what memcpy does from
2 KB on) as one instruction per byte.
"""

import re
import statistics
import subprocess
from dataclasses import asdict, dataclass

from rig.answers import check_answer
from rig.exact import Client
from rig.names import OUTCOMES, REFUSED
from rig.processes import RigError

# Until pools, tables and buffers have the size that they keep.
WARM_UP_REQUESTS = 300
# What callgrind may take to answer on a busy machine.
CONTROL_SECONDS = 60
# What Rust calls of mimalloc.
ALLOCATOR = re.compile(r"mi_(malloc|zalloc|calloc|realloc|rezalloc)\w*")


@dataclass
class How:
    """How often is asked."""

    connections: int = 64
    requests: int = 2000  # in each repetition
    repeat: int = 3


@dataclass
class Count:
    """What requests of one kind cost a gateway, each."""

    gateway: str
    outcome: str
    connections: int
    requests: int  # in each repetition
    each: list  # instructions: one figure for each repetition
    allocations: float

    @property
    def instructions(self):
        return statistics.median(self.each)

    @property
    def spread(self):
        return (max(self.each) - min(self.each)) / self.instructions

    def as_dict(self):
        return {**asdict(self), "instructions": self.instructions}

    def __str__(self):
        return (f"{self.outcome:9} {self.gateway:18} {self.connections:4} connections "
                f"{self.instructions:10,.0f} instructions per request (spread {self.spread:.2%} of {len(self.each)}), "
                f"{self.allocations:.1f} allocations")


def under_callgrind(name, argv):
    """The command line that runs a gateway under callgrind."""
    return ["valgrind", "--tool=callgrind", f"--callgrind-out-file=callgrind.{name}", *argv]


def count(bench, folder, gateway, outcome, how):
    """Counts requests of one kind: (the count, callgrind's last dump)."""
    if outcome in OUTCOMES:
        check_answer(gateway, outcome)
    each, allocations = [], []
    with Client(gateway.program.port, outcome, how.connections) as client:
        client.send(max(WARM_UP_REQUESTS, 4 * how.connections))
        for _ in range(how.repeat):
            # Nothing is on its way, but some is done after an answer: events, for one.
            bench.wait_until_quiet()
            arrived = bench.upstream_requests()
            _control(gateway, "--zero")
            client.send(how.requests)
            # The question how many have arrived is a request itself.
            _check_arrived(gateway, outcome, how.requests, bench.upstream_requests() - arrived - 1)
            bench.wait_until_quiet()
            _control(gateway, "--dump")
            dump = _last_dump(folder, gateway)
            each.append(instructions(dump) / how.requests)
            allocations.append(calls_of_allocator(dump) / how.requests)
    return Count(gateway.name, outcome, how.connections, how.requests, each, statistics.median(allocations)), dump


def keep(folder, counted, dump):
    """Leaves a dump in a folder, for callgrind_annotate; its first line tells of how many requests it is."""
    folder.mkdir(exist_ok=True, parents=True)
    file = folder / f"{counted.gateway}-{counted.outcome}-{counted.connections}.out"
    file.write_text(f"# requests: {counted.requests}\n{dump}")


def instructions(dump):
    """How many instructions a dump tells of."""
    return int(re.search(r"^(?:totals|summary): (\d+)", dump, re.MULTILINE).group(1))


def calls_of_allocator(dump):
    """How often the allocator was asked for memory, or for more of it, from outside."""
    names, caller, callee, calls = {}, "", "", 0
    for line in dump.splitlines():
        if line.startswith(("fn=", "cfn=")):
            number, _, name = line.split("=", 1)[1].partition(" ")
            # A name is told once; its number stands for it from then on.
            name = names.setdefault(number, name)
            if line.startswith("fn="):
                caller = name
            else:
                callee = name
        elif line.startswith("calls=") and ALLOCATOR.match(callee) and not caller.startswith(("mi_", "_mi_")):
            calls += int(line.removeprefix("calls=").split()[0])
    return calls


def _check_arrived(gateway, outcome, sent, arrived):
    expected = 0 if outcome == REFUSED else sent
    if arrived != expected:
        raise RigError(f"{gateway.name}: of {sent} {outcome} requests {arrived} reached the upstream, expected {expected}")


def _control(gateway, what):
    """Tells callgrind to forget, or to write down, what it has counted."""
    subprocess.run(["callgrind_control", what, str(gateway.program.popen.pid)],
                   check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=CONTROL_SECONDS)


def _last_dump(folder, gateway):
    """The newest dump of a gateway."""
    dumps = folder.glob(f"callgrind.{gateway.name}.*")
    return max(dumps, key=lambda path: int(path.suffix[1:])).read_text()
