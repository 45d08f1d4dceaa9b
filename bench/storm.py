#!/usr/bin/env python3
"""What a storm of refused teams costs those that pay, with a memory of refusals and without.

One gateway at a time, with `admission.remember_refusals` and without. Teams with
credits start runs at a fixed rate, open loop: a start's time counts from when it
was due, not from when a connection was free. First in quiet, then while 10,000
connections of teams without credits start runs, each again after a pause. What
counts is the p99 of the starts that are admitted, storm against quiet of the
same round; the median of all rounds is told. Redis and the gateway say what the
storm cost them.

Exit status: 0 measured, 1 could not measure, or an answer was wrong.
"""

import argparse
import asyncio
import json
import os
import random
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from rig.gateways import PATH, redis_command
from rig.processes import Programs, RigError, free_ports

HERE = Path(__file__).resolve().parent
TARGET_RATIO = 1.5
# Open files beside those of the storm.
OTHER_FILES = 2000
# Starts that are not answered by then are counted as that long.
PATIENCE_SECONDS = 10
# For all connections of the storm to be made, and to be in step no more.
CONNECT_SECONDS = 60
SETTLE_SECONDS = 2
# Each admitted start needs a connection while it is in flight, no more.
POOL_MAX = 256

CONFIG = """\
server:
  listen: ["127.0.0.1:{port}"]
  admin: {{listen: "127.0.0.1:{admin}"}}
  threads: 1
  limits: {{connections: {connections}}}
upstream:
  addresses: ["127.0.0.1:{upstream}"]
balances:
  redis: {{url: "redis://127.0.0.1:{redis}", deadline: 500ms}}
log: {{access: off}}
identity:
  - header: {{name: x-team-id, from: ["127.0.0.0/8"]}}
routes:
  - start: POST {path}
"""
REMEMBERED, CONNECTIONS = "tollgate_refusals_remembered_total", "tollgate_connections"
MEMORY = "admission: {{remember_refusals: {span}}}\n"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--connections", type=int, default=10_000, help="of refused teams")
    parser.add_argument("--storm-rate", type=int, default=4000, help="their starts a second, in all")
    parser.add_argument("--teams", type=int, default=100, help="refused teams")
    parser.add_argument("--rate", type=int, default=200, help="admitted starts a second")
    parser.add_argument("--seconds", type=int, default=10, help="of quiet, and of storm")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--remember", default="250ms")
    parser.add_argument("--quick", action="store_true", help="one round of 5 s each")
    parser.add_argument("--program", type=Path, help="the gateway; otherwise the release build")
    parser.add_argument("--json", type=Path, help="write everything that was measured there")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds = 1, 5
    return options


def main():
    options = arguments()
    folder = Path(tempfile.mkdtemp(prefix="tollgate-storm-"))
    try:
        raise_file_limit(options.connections)
        with Programs(folder) as programs:
            samples = measure(options, programs)
    except (RigError, OSError, subprocess.SubprocessError, ValueError) as error:
        print(f"storm: {error}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    found = summary(options, samples)
    print(text(options, found))
    if options.json:
        options.json.write_text(json.dumps({"summary": found, "samples": samples}, indent=1) + "\n")
    return 0


def raise_file_limit(connections):
    """Children inherit it: the gateway and the storm each hold every connection."""
    wanted = connections + OTHER_FILES
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise RigError(f"{wanted} open files are needed, {hard} allowed: raise `ulimit -n`, or give --connections")
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def measure(options, programs):
    cpus = sorted(os.sched_getaffinity(0))
    gateway_cpus, other_cpus = {cpus[0]}, set(cpus[1:]) or {cpus[0]}
    rig = Rig(options, programs, gateway_cpus, other_cpus)
    os.sched_setaffinity(0, other_cpus)
    try:
        # The one that takes the time must not wait for the storm itself.
        os.setpriority(os.PRIO_PROCESS, 0, -10)
    except PermissionError:
        print("storm: not allowed to raise a priority, so times include waiting for the storm's own CPU", file=sys.stderr)
    samples = []
    for number in range(options.rounds):
        for memory in (None, options.remember):
            samples.append({"round": number, "memory": memory, **rig.round(memory)})
    return samples


class Rig:
    """Upstream, Redis, and one gateway after the other."""

    def __init__(self, options, programs, gateway_cpus, other_cpus):
        self._options, self._programs = options, programs
        self._gateway_cpus, self._other_cpus = gateway_cpus, other_cpus
        (programs.folder / "tmp").mkdir()
        self._upstream, self._redis = free_ports(2)
        config = programs.folder / "upstream.conf"
        config.write_text((HERE / "nginx-upstream.conf").read_text().replace("@LISTEN@", f"127.0.0.1:{self._upstream}"))
        nginx = shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin")
        if nginx is None or shutil.which("wrk") is None:
            raise RigError("nginx or wrk is not installed; run `make setup`")
        programs.start("upstream", [nginx, "-p", programs.folder, "-c", config, "-e", "stderr"], self._upstream, other_cpus)
        self.redis = programs.start(
            "redis", ["redis-server", "--port", self._redis, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"],
            self._redis, other_cpus)
        redis_command(self._redis, "SET", "credits:{acme}", "1000000")
        for team in range(1, options.teams + 1):
            redis_command(self._redis, "SET", f"credits:{{broke-{team}}}", "0")

    def round(self, memory):
        """Quiet and storm before one gateway."""
        options = self._options
        port, admin = free_ports(2)
        name = f"gateway-{port}"
        config = self._programs.folder / f"{name}.yaml"
        text = CONFIG.format(
            port=port, admin=admin, upstream=self._upstream, redis=self._redis, path=PATH,
            connections=options.connections + OTHER_FILES)
        config.write_text(text + (MEMORY.format(span=memory) if memory else ""))
        gateway = self._programs.start(name, [self._program(), "run", "--config", config], port, self._gateway_cpus)
        asyncio.run(starts(port, options.rate, 1))
        quiet = asyncio.run(starts(port, options.rate, options.seconds))
        storm = self._storm(port)
        try:
            wait_for_storm(admin, options.connections, storm)
            commands, remembered = self._commands(), counted(admin, REMEMBERED)
            cpu, redis_cpu = gateway.cpu_seconds(), self.redis.cpu_seconds()
            loud = asyncio.run(starts(port, options.rate, options.seconds))
            cost = {
                "redis_commands": self._commands() - commands,
                "remembered": counted(admin, REMEMBERED) - remembered,
                "gateway_cpu_seconds": round(gateway.cpu_seconds() - cpu, 3),
                "redis_cpu_seconds": round(self.redis.cpu_seconds() - redis_cpu, 3),
            }
            # wrk ends in order, and tells what it did.
            storm.send_signal(signal.SIGINT)
            output, complaint = storm.communicate(timeout=60)
        finally:
            storm.kill()
            storm.wait()
        gateway.ensure_alive()
        gateway.stop()
        lines = [line for line in output.splitlines() if line.startswith("RESULT ")]
        if storm.returncode != 0 or not lines:
            raise RigError(f"wrk failed with {storm.returncode}: {complaint.strip() or output.strip()}")
        refused = json.loads(lines[-1].removeprefix("RESULT "))
        if refused["at_least_400"] != refused["requests"]:
            raise RigError(f"a start of a team without credits was admitted: {refused}")
        return {"quiet": quiet, "storm": loud, **cost, "refused": refused}

    def _storm(self, port):
        options = self._options
        pause = 1000 * options.connections // options.storm_rate
        # Ended before that.
        seconds = options.seconds + CONNECT_SECONDS + SETTLE_SECONDS + 60
        argv = ["wrk", "-t", "1", "-c", options.connections, "-d", f"{seconds}s", "--timeout", "10s",
                "-s", HERE / "storm.lua", f"http://127.0.0.1:{port}{PATH}", "--", options.teams, pause]
        return subprocess.Popen(
            [str(word) for word in argv], text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, preexec_fn=lambda: os.setpriority(os.PRIO_PROCESS, 0, 0))

    def _commands(self):
        """How many commands Redis has carried out."""
        process = subprocess.run(
            ["redis-cli", "-p", str(self._redis), "INFO", "stats"], capture_output=True, text=True, timeout=10, check=True)
        line = next(line for line in process.stdout.splitlines() if line.startswith("total_commands_processed:"))
        return int(line.split(":")[1])

    def _program(self):
        if self._options.program:
            return self._options.program.resolve()
        target = Path(os.environ.get("CARGO_TARGET_DIR", HERE.parent / "target"))
        program = target / os.environ.get("TOLLGATE_PROFILE", "release") / "tollgate"
        if not program.exists():
            raise RigError("tollgate is not built; run `cargo build --release`, or name a build with --program")
        return program


def wait_for_storm(admin, connections, storm):
    """Until every connection of the storm is there."""
    until = time.monotonic() + CONNECT_SECONDS
    while (there := counted(admin, CONNECTIONS)) < connections:
        if storm.poll() is not None or time.monotonic() > until:
            raise RigError(f"{there} of {connections} connections of the storm are there after {CONNECT_SECONDS} s")
        time.sleep(0.1)
    time.sleep(SETTLE_SECONDS)


def counted(admin, name):
    """A figure of the gateway's metrics."""
    with urllib.request.urlopen(f"http://127.0.0.1:{admin}/metrics", timeout=10) as answer:
        for line in answer.read().decode().splitlines():
            if line.startswith(f"{name} "):
                return int(float(line.split()[1]))
    return 0


async def starts(port, rate, seconds):
    """Admitted starts at this rate, in milliseconds from when each was due."""
    pool, took, wrong = [], [], []
    dice = random.Random(seconds)
    loop = asyncio.get_running_loop()
    body = b'{"prompt":"x"}'
    request = (
        f"POST {PATH} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nx-team-id: acme\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n").encode() + body

    async def one(due):
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                reader, writer = pool.pop() if pool else await asyncio.open_connection("127.0.0.1", port)
                writer.write(request)
                head = await reader.readuntil(b"\r\n\r\n")
                fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
                await reader.readexactly(int(fields.get(b"content-length", 0)))
                if b" 200 " not in head.split(b"\r\n")[0]:
                    wrong.append(head.split(b"\r\n")[0].decode())
                if len(pool) < POOL_MAX:
                    pool.append((reader, writer))
                else:
                    writer.close()
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            wrong.append(repr(error))
        took.append(1000 * (loop.time() - due))

    tasks, due = [], loop.time()
    end = due + seconds
    while (due := due + dice.expovariate(rate)) < end:
        await asyncio.sleep(max(0, due - loop.time()))
        tasks.append(asyncio.create_task(one(due)))
    await asyncio.gather(*tasks)
    for _, writer in pool:
        writer.close()
    if len(wrong) > len(took) // 100:
        raise RigError(f"{len(wrong)} of {len(took)} admitted starts went wrong, such as {wrong[0]}")
    took.sort()
    at = lambda share: round(took[min(len(took) - 1, int(share * len(took)))], 3)
    return {"starts": len(took), "wrong": len(wrong), "p50_ms": at(0.5), "p99_ms": at(0.99), "p999_ms": at(0.999)}


def summary(options, samples):
    found = {}
    for memory in (None, options.remember):
        rounds = [sample for sample in samples if sample["memory"] == memory]
        middle = lambda pick: statistics.median(map(pick, rounds))
        found[memory or "off"] = {
            "quiet_p99_ms": middle(lambda s: s["quiet"]["p99_ms"]),
            "storm_p99_ms": middle(lambda s: s["storm"]["p99_ms"]),
            "ratio": round(middle(lambda s: s["storm"]["p99_ms"] / s["quiet"]["p99_ms"]), 2),
            "ratios": [round(s["storm"]["p99_ms"] / s["quiet"]["p99_ms"], 2) for s in rounds],
            "refused_per_second": round(middle(lambda s: s["refused"]["requests"] / s["refused"]["microseconds"] * 1e6)),
            "remembered_per_second": round(middle(lambda s: s["remembered"] / options.seconds)),
            "redis_commands_per_second": round(middle(lambda s: s["redis_commands"] / options.seconds)),
            "gateway_cpu_percent": round(100 * middle(lambda s: s["gateway_cpu_seconds"] / options.seconds)),
            "redis_cpu_percent": round(100 * middle(lambda s: s["redis_cpu_seconds"] / options.seconds)),
        }
    return found


def text(options, found):
    lines = [
        f"{options.connections} connections of {options.teams} teams without credits, "
        f"{options.rate} admitted starts a second, {options.rounds} rounds of {options.seconds} s",
        "",
        f"{'memory':>8} {'quiet p99':>11} {'storm p99':>11} {'ratio':>7} {'refused/s':>10} {'from memory/s':>14} "
        f"{'redis commands/s':>17} {'gateway CPU':>12} {'redis CPU':>10}",
    ]
    for memory, row in found.items():
        lines.append(
            f"{memory:>8} {row['quiet_p99_ms']:>8.2f} ms {row['storm_p99_ms']:>8.2f} ms {row['ratio']:>7.2f} "
            f"{row['refused_per_second']:>10} {row['remembered_per_second']:>14} {row['redis_commands_per_second']:>17} "
            f"{row['gateway_cpu_percent']:>10} % {row['redis_cpu_percent']:>8} %")
    ratio = found[options.remember]["ratio"]
    verdict = "met" if ratio <= TARGET_RATIO else "not met"
    lines += ["", f"with the memory: {ratio} times quiet, target {TARGET_RATIO}: {verdict}"]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
