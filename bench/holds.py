#!/usr/bin/env python3
"""How many holds one Redis core carries, with 100,000 live holds of one team.

Starts a redis-server of its own on a Unix socket, loads the holds through the
script that the gateway uses, and lets redis-benchmark ask for more. What counts
is the CPU time of Redis's main thread, reading and replying included: it says
what one core carries even while others use the machine. A pipelined GET and a
script that does nothing stand beside it.

Exit status: 0 measured, 1 could not measure or the holds do not add up.
"""

import argparse
import json
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent.parent / "src/ledger/redis/scripts"
TEAM = "bench"
# As in src/ledger/redis/holds/script.rs.
PARTS = ["clock", "hold_totals", "base", "amounts", "hold", "due", "hold_rest"]
KEYS = [f"tollgate:{kind}:{{{TEAM}}}" for kind in ("holds", "due", "done")] + [f"credits:{{{TEAM}}}"]
DAY_MS = 24 * 60 * 60 * 1000
# Of how many ids redis-benchmark makes one up. It cannot count much further, and
# begins anew with each burst.
MADE_UP = 10**9
# Later than any clock says.
NEVER_US = 9 * 10**15


def main():
    options = arguments()
    # Told to stop, it stops its Redis, too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = Path(tempfile.mkdtemp(prefix="tollgate-holds-"))
    socket = folder / "redis.sock"
    server = subprocess.Popen(
        ["redis-server", "--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", str(folder)],
        stdout=subprocess.DEVNULL)
    try:
        return measure(Redis(socket), options)
    except (subprocess.SubprocessError, RuntimeError) as error:
        print(f"holds: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        server.terminate()
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--live", type=int, default=100_000, help="live holds to begin with")
    parser.add_argument("--requests", type=int, default=100_000, help="holds per burst")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    return parser.parse_args()


class Redis:
    def __init__(self, socket):
        self.cli = ["redis-cli", "-s", str(socket)]
        self.benchmark = ["redis-benchmark", "-s", str(socket), "-P", "16", "-c", "50", "-q"]
        deadline = time.monotonic() + 20
        while self.ask("PING", check=False) != "PONG":
            if time.monotonic() > deadline:
                raise RuntimeError("redis-server does not answer")
            time.sleep(0.02)

    def ask(self, *command, check=True, text=None):
        done = subprocess.run(self.cli + list(command), capture_output=True, input=text,
                              encoding="utf-8", timeout=60, check=check)
        return done.stdout.strip()

    def burst(self, requests, *command):
        """Requests a second as seen by the client, and CPU microseconds of each."""
        before = self.cpu_us()
        done = subprocess.run(
            self.benchmark + ["-r", str(MADE_UP), "-n", str(requests), *command],
            capture_output=True, encoding="utf-8", timeout=300, check=True)
        rate = re.findall(r"([0-9.]+) requests per second", done.stdout.replace("\r", "\n"))
        if not rate:
            raise RuntimeError(f"redis-benchmark did not do its work: {done.stdout[-300:]}")
        return float(rate[-1]), (self.cpu_us() - before) / requests

    def cpu_us(self):
        """The CPU time of the thread that runs commands, so far."""
        spent = re.findall(r"used_cpu_(?:user|sys)_main_thread:([0-9.]+)", self.ask("INFO", "cpu"))
        return sum(float(seconds) for seconds in spent) * 1e6


def measure(redis, options):
    text = "#!lua\n" + "".join((SCRIPTS / f"{part}.lua").read_text() for part in PARTS)
    hold = redis.ask("-x", "SCRIPT", "LOAD", text=text)
    nothing = redis.ask("-x", "SCRIPT", "LOAD", text="#!lua\nreturn 1")
    kinds = {
        "GET of the balance": lambda _: ("GET", KEYS[3]),
        "a script that does nothing": lambda _: ("EVALSHA", nothing, "1", KEYS[3]),
        "hold": lambda burst: asking(hold, burst, 30 * 60 * 1000),
        "hold and expire after 1 s": lambda burst: asking(hold, burst, 1000),
    }
    found = {kind: [] for kind in kinds}
    for kind, command in kinds.items():
        # Each kind begins with the same live holds.
        redis.ask("FLUSHALL")
        redis.ask("SET", KEYS[3], "9000000000")
        redis.burst(options.live, *asking(hold, "live", DAY_MS))
        for number in range(options.rounds):
            found[kind].append(redis.burst(options.requests, *command(f"{number}")))
        asked = options.live + options.rounds * options.requests * (kind == "hold")
        check(redis, asked)
    print(f"{options.live} live holds of one team, {options.rounds} bursts of {options.requests} each, "
          "16 commands in flight on each of 50 connections\n")
    get = statistics.median(spent for _, spent in found["GET of the balance"])
    for kind, bursts in found.items():
        spent = statistics.median(spent for _, spent in bursts)
        seen = statistics.median(rate for rate, _ in bursts)
        print(f"{kind:28} {spent:6.2f} us of CPU each: {1e6 / spent:9,.0f} /s on one core, "
              f"{spent / get:5.1f} times a GET   (seen by the client: {seen:9,.0f} /s)")
    if options.json:
        options.json.write_text(json.dumps({
            kind: {"redis_cpu_us": [spent for _, spent in bursts], "seen_per_second": [rate for rate, _ in bursts]}
            for kind, bursts in found.items()}))
    return 0


def asking(sha, burst, hold_for_ms):
    """One credit, for an id that redis-benchmark makes up each time."""
    return ("EVALSHA", sha, "4", *KEYS, str(DAY_MS), str(NEVER_US), f"h:{burst}-0123456789-__rand_int__",
            "1000000", str(hold_for_ms), "0", "64")


def check(redis, asked):
    """Nothing was refused or lost: the totals say what there is, and that is
    what was asked for, but for ids that were made up twice."""
    _, held, live, *_ = redis.ask("HGET", KEYS[0], "totals").split()
    holds = int(redis.ask("HLEN", KEYS[0])) - 1
    if holds < asked * 0.999:
        raise RuntimeError(f"{asked} holds were asked for, and there are {holds}")
    if int(live) != holds or int(held) != holds * 1_000_000:
        raise RuntimeError(f"the totals say {live} holds of {held}, and there are {holds}")


if __name__ == "__main__":
    sys.exit(main())
