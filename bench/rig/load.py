"""One burst of load, and what it did: wrk's numbers and the CPU time it took."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rig.gateways import ADMITTED, STATUSES, TEAMS, check_answer
from rig.processes import RigError, run_bounded

SCRIPT = Path(__file__).parent.parent / "wrk.lua"
# wrk waits for its last answers and for a busy machine.
SLACK_SECONDS = 20


@dataclass
class Sample:
    """One burst. CPU in microseconds per request; latencies in microseconds."""

    gateway: str
    outcome: str
    connections: int
    round: int
    requests: int
    requests_per_second: float
    p50_us: float
    p90_us: float
    p99_us: float
    gateway_cpu_us: float
    redis_cpu_us: float
    wrong: int  # answers that were not the expected one, or did not come
    notes: list = field(default_factory=list)  # what was wrong

    def as_dict(self):
        return asdict(self)


class Driver:
    """Sends bursts with wrk and watches what they cost."""

    def __init__(self, bench, programs, cpus):
        self._bench, self._programs, self._cpus = bench, programs, cpus
        self._answer_bytes = {
            (gateway.name, outcome): check_answer(gateway, outcome)
            for gateway in bench.gateways for outcome in gateway.outcomes
        }

    def warm_up(self, gateway, outcome, connections, seconds):
        """Not measured: fills pools, and every single answer's status must be right."""
        result = self._wrk(gateway, outcome, connections, seconds, "count")
        expected = str(STATUSES[outcome])
        others = {status: count for status, count in result["statuses"].items() if status != expected}
        troubles = {name: result[name] for name in ("connect", "read", "write", "timeout") if result[name]}
        if others or troubles or not result["requests"]:
            raise RigError(
                f"{gateway.name}, {outcome}, {connections} connections: expected only {expected}, "
                f"got {result['requests']} answers, statuses {result['statuses']}, {troubles or 'no socket errors'}"
            )

    def measure(self, gateway, outcome, connections, seconds, round_number):
        """One burst that counts."""
        self._bench.wait_until_quiet()
        arrived = self._bench.upstream_requests()
        gateway_cpu, redis_cpu = gateway.program.cpu_seconds(), self._bench.redis.cpu_seconds()
        result = self._wrk(gateway, outcome, connections, seconds, "fast")
        gateway_cpu = gateway.program.cpu_seconds() - gateway_cpu
        redis_cpu = self._bench.redis.cpu_seconds() - redis_cpu
        # The question how many have arrived is a request itself.
        arrived = self._bench.upstream_requests() - arrived - 1
        self._programs.ensure_alive()
        requests = result["requests"]
        if not requests:
            raise RigError(f"{gateway.name} answered nothing in {seconds} s ({outcome}, {connections} connections)")
        notes = self._complaints(gateway, outcome, connections, result, arrived)
        return Sample(
            gateway.name, outcome, connections, round_number, requests,
            requests / (result["microseconds"] / 1e6),
            result["p50_us"], result["p90_us"], result["p99_us"],
            gateway_cpu * 1e6 / requests, redis_cpu * 1e6 / requests,
            sum(count for count, _ in notes), [text for _, text in notes],
        )

    def _complaints(self, gateway, outcome, connections, result, arrived):
        """What was not as it had to be: (how many, in words)."""
        requests, refused = result["requests"], result["at_least_400"]
        found = [(result[name], f"{name} errors") for name in ("connect", "read", "write", "timeout")]
        if outcome == ADMITTED:
            found.append((refused, "answers were not 200"))
            found.append((max(0, requests - arrived), "answers came without the upstream being asked"))
        else:
            found.append((requests - refused, "refusals were not 403"))
            found.append((arrived, "refused starts reached the upstream"))
            # 403 and 503 look alike to wrk's cheap count, but differ in length.
            # Up to one answer per connection is cut off when a burst ends.
            usual = self._answer_bytes[gateway.name, outcome]
            off = int(abs(result["bytes"] / usual - requests)) - connections
            found.append((max(0, off), "refusals were not as long as the others"))
        return [(count, f"{count} {text}") for count, text in found if count]

    def _wrk(self, gateway, outcome, connections, seconds, how):
        output = run_bounded(
            ["wrk", "-t1", "-c", connections, "-d", f"{seconds}s", "--timeout", "5s",
             "-s", SCRIPT, gateway.url, "--", TEAMS[outcome], how],
            self._cpus, seconds + SLACK_SECONDS,
        )
        for line in output.splitlines():
            if line.startswith("RESULT "):
                return json.loads(line.removeprefix("RESULT "))
        raise RigError(f"wrk printed no result:\n{output}")
