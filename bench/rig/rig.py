"""The machine as the load test uses it: CPUs, programs, the certificate, results."""

import os
import tempfile
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from rig import machine
from rig.gateways import Bench
from rig.generators import REPOSITORY
from rig.load import Driver, Sample
from rig.processes import Programs, RigError, run_bounded


@dataclass
class Options:
    """How much is measured."""

    quick: bool = False
    rounds: int = 7
    seconds: int = 2
    connections: tuple = (1, 64, 512)
    gateways: tuple = ()  # nothing: all
    after_minutes: float = 10  # memory: how long after a burst it is looked at last


@dataclass
class Results:
    """Everything that was measured, as it goes into report.json."""

    samples: list = field(default_factory=list)
    round_trips_us: list = field(default_factory=list)  # of a plain GET, a round each
    saturation: dict = field(default_factory=dict)  # gateway to requests per second
    memory: dict = field(default_factory=dict)  # gateway to its resident bytes at each step
    instructions: list = field(default_factory=list)
    holds: dict = field(default_factory=dict)
    storm: dict = field(default_factory=dict)
    elsewhere: dict = field(default_factory=dict)  # stage to the share of the CPUs that others had
    took_seconds: dict = field(default_factory=dict)
    not_measured: dict = field(default_factory=dict)  # what to why
    failed: dict = field(default_factory=dict)  # stage to what went wrong

    def of_stage(self, stage):
        return [sample for sample in self.samples if sample.stage == stage]

    def wrong(self):
        return [sample for sample in self.samples if sample.wrong]

    def as_dict(self):
        return {**asdict(self), "samples": [sample.as_dict() for sample in self.samples]}

    @classmethod
    def from_dict(cls, told):
        """What `as_dict` gave, as it is found in report.json."""
        known = {one.name: told[one.name] for one in fields(cls) if one.name in told}
        return cls(**{**known, "samples": [Sample(**sample) for sample in told["samples"]]})


class Rig:
    """What all stages share."""

    def __init__(self, options, folder, before=None, unpinned=False):
        self.options, self.folder, self.before = options, folder, before
        self.gateway_cpus, self.other_cpus, self.two_cpus = split_cpus(os.sched_getaffinity(0), unpinned)
        self.results = Results()
        self._certificate = None

    def bench(self, wanted, stage, *how, **more):
        """A running bench for a stage, as a context: (bench, driver, programs). More goes to `Bench`."""
        return Running(self, stage, lambda programs: Bench(self, programs, wanted, *how, **more))

    def wanted(self, *names):
        """Those of the gateways that were asked for and can be had here."""
        chosen = [name for name in names if not self.options.gateways or name in self.options.gateways]
        program, why = self.envoy
        if program is None and "envoy" in chosen:
            self.results.not_measured["envoy"] = why
            chosen.remove("envoy")
        return chosen

    @property
    def envoy(self):
        """Envoy's program, or None and why."""
        return machine.envoy(REPOSITORY)

    @property
    def certificate(self):
        """Paths of a certificate and its key, made once for this run."""
        if self._certificate is None:
            cert, key = self.folder / "server.pem", self.folder / "server.key"
            run_bounded(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                         "-days", 2, "-subj", "/CN=localhost", "-keyout", key, "-out", cert], self.other_cpus, 60)
            self._certificate = [cert, key]
        return self._certificate

    def built(self, name):
        target = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))
        # TOLLGATE_PROFILE: `make counts` has a profile of its own.
        program = target / os.environ.get("TOLLGATE_PROFILE", "release") / name
        if not program.exists():
            raise RigError(f"{program.name} is not built; run `make bench`, which builds it")
        return program

    def interleaved(self, driver, cells, rounds, each_round=None, warm=True):
        """Bursts of all cells round by round; (gateway, outcome, load, variant) each."""
        if warm:
            for gateway, outcome, load, _ in cells:
                driver.warm_up(gateway, outcome, load)
        for number in range(1, rounds + 1):
            if each_round:
                each_round(number)
            # Every other round backwards: what is compared stays side by side,
            # and neither always comes first.
            for gateway, outcome, load, variant in cells if number % 2 else reversed(cells):
                self.results.samples.append(driver.measure(gateway, outcome, load, number, variant))


class Running:
    """A bench in a folder of its own; leaving the block stops its programs."""

    def __init__(self, rig, stage, start):
        self._rig, self._stage, self._start = rig, stage, start
        self._programs = Programs(Path(tempfile.mkdtemp(prefix=f"{stage}-", dir=rig.folder)))

    def __enter__(self):
        try:
            bench = self._start(self._programs)
        except BaseException:
            self._programs.stop()
            raise
        return bench, Driver(self._rig, bench, self._programs, self._stage), self._programs

    def __exit__(self, *_):
        self._programs.stop()


def split_cpus(cpus, unpinned):
    """One CPU for the gateway, the others for load, upstream and Redis; two for one with two threads.

    The gateway is then what limits throughput, and no scheduler decides who
    disturbs whom.
    """
    cpus = sorted(cpus)
    if unpinned or len(cpus) < 2:
        return set(cpus), set(cpus), set(cpus)
    if len(cpus) < 4:
        return {cpus[-1]}, set(cpus[:-1]), set(cpus)
    return {cpus[-1]}, set(cpus[:-2]), set(cpus[-2:])
