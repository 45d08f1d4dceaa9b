"""Bursts that nobody measured."""

from rig.load import Sample
from rig.names import ADMITTED
from rig.stages import proxying


def burst(gateway, number, cpu_us, **more):
    told = {
        "stage": proxying.STAGE, "gateway": gateway, "outcome": ADMITTED, "connections": 64, "variant": "",
        "round": number, "generator": "wrk", "requests": 1000, "requests_per_second": 1000.0, "asked_per_second": 0,
        "percentiles_us": {"50": 100.0, "99": 200.0}, "gateway_cpu_us": cpu_us, "redis_cpu_us": 2.0,
        "load_cpus_busy": 0.5, "wrong": 0, **more,
    }
    return Sample(**told)


def bursts(gateway, costs, **more):
    """One per round."""
    return [burst(gateway, number, cost, **more) for number, cost in enumerate(costs, 1)]
