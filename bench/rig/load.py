"""One burst of load, what it did and what it cost, and whether the answers were right."""

from dataclasses import asdict, dataclass, field, replace

from rig import generators, machine
from rig.answers import check_answer
from rig.generators import H2LOAD, OHA, WRK
from rig.names import ADMITTED, STATUSES
from rig.processes import RigError
from rig.stats import Cell


@dataclass
class Sample:
    """One burst. CPU in microseconds per request; latencies in microseconds."""

    stage: str
    gateway: str
    outcome: str
    connections: int
    variant: str
    round: int
    generator: str
    requests: int
    requests_per_second: float
    asked_per_second: int  # 0 in a closed loop
    percentiles_us: dict
    gateway_cpu_us: float
    redis_cpu_us: float
    load_cpus_busy: float  # share of the CPUs of generator, upstream and Redis that was in use
    wrong: int  # answers that were not the expected one, or did not come
    notes: list = field(default_factory=list)  # what was wrong

    @property
    def cell(self):
        return Cell(self.stage, self.gateway, self.outcome, self.connections, self.variant)

    @property
    def p50_us(self):
        return self.percentiles_us.get("50")

    @property
    def p99_us(self):
        return self.percentiles_us.get("99")

    def as_dict(self):
        return asdict(self)


class Driver:
    """Sends bursts at the gateways of one bench and watches what they cost."""

    def __init__(self, rig, bench, programs, stage):
        self._rig, self._bench, self._programs, self._stage = rig, bench, programs, stage
        self._answer_bytes = {}

    def warm_up(self, gateway, outcome, load, seconds=1):
        """Not measured: fills pools, and every single answer's status must be right."""
        if load.generator != H2LOAD:  # h2load's gateways need not speak HTTP/1
            self._answer_bytes[gateway.name, outcome] = check_answer(gateway, outcome)
        generator = WRK if load.generator == OHA else load.generator
        load = replace(load, seconds=seconds, generator=generator, exact=True, threads=1)
        burst = generators.run(gateway, outcome, load, self._rig.other_cpus)
        if wrong_statuses(burst, outcome) or burst.troubles or not burst.requests:
            raise RigError(
                f"{gateway.name}, {outcome}, {load.connections} connections: expected only {STATUSES[outcome]}, "
                f"got {burst.requests} answers, statuses {burst.statuses}, {burst.troubles or 'no socket errors'}"
            )

    def measure(self, gateway, outcome, load, round_number, variant=""):
        """One burst that counts."""
        self._bench.wait_until_quiet()
        arrived = self._bench.upstream_requests()
        busy = machine.Busy(self._rig.other_cpus)
        gateway_cpu, redis_cpu = gateway.cpu_seconds(), self._bench.redis.cpu_seconds()
        burst = generators.run(gateway, outcome, load, self._rig.other_cpus)
        gateway_cpu = gateway.cpu_seconds() - gateway_cpu
        redis_cpu = self._bench.redis.cpu_seconds() - redis_cpu
        busy_share = busy.share()
        # The question how many have arrived is a request itself.
        arrived = self._bench.upstream_requests() - arrived - 1
        self._programs.ensure_alive()
        if not burst.requests:
            raise RigError(f"{gateway.name} answered nothing in {load.seconds} s ({outcome}, {load.connections} connections)")
        notes = complaints(outcome, load, burst, arrived, self._answer_bytes.get((gateway.name, outcome)))
        return Sample(
            self._stage, gateway.name, outcome, load.connections, variant, round_number, load.generator,
            burst.requests, burst.requests / burst.seconds, load.per_second, burst.percentiles_us,
            gateway_cpu * 1e6 / burst.requests, redis_cpu * 1e6 / burst.requests, busy_share,
            sum(count for count, _ in notes), [text for _, text in notes],
        )


def wrong_statuses(burst, outcome):
    """How many answers had another status than the expected one, as far as the generator tells."""
    return sum(count for status, count in burst.statuses.items() if status != STATUSES[outcome])


def complaints(outcome, load, burst, arrived, usual_bytes):
    """What was not as it had to be: (how many, in words)."""
    found = [(count, text) for text, count in burst.troubles.items()]
    if burst.statuses:
        found.append((wrong_statuses(burst, outcome), f"answers were not {STATUSES[outcome]}"))
    elif outcome == ADMITTED:
        found.append((burst.at_least_400, f"answers were not {STATUSES[outcome]}"))
    else:
        found.append((burst.requests - burst.at_least_400, f"refusals were not {STATUSES[outcome]}"))
        # 403 and 503 look alike to wrk's cheap count, but differ in length.
        # Up to one answer per connection is cut off when a burst ends.
        if usual_bytes and burst.bytes:
            off = int(abs(burst.bytes / usual_bytes - burst.requests)) - load.connections
            found.append((max(0, off), "refusals were not as long as the others"))
    if outcome == ADMITTED:
        found.append((max(0, burst.requests - arrived), "answers came without the upstream being asked"))
    else:
        found.append((arrived, "refused starts reached the upstream"))
    return [(count, f"{count} {text}") for count, text in found if count]
