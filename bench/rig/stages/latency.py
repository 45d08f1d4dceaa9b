"""What clients wait for when the rate does not depend on the answers: open loop.

First a closed loop finds how much each gateway can take at most. Then starts
come at constant rates: all gateways at half of what tollgate takes (the same
rate for each, so that what differs is the gateway), and each at shares of its
own most.
"""

from statistics import median

from rig import names
from rig.generators import OHA, Load
from rig.names import ADMITTED
from rig.timing import bursts_seconds

STAGE = "latency"
MEASURED = (names.BARE_PINGORA, names.TOLLGATE, names.NGINX_LUA, names.ENVOY)
CONNECTIONS = 64
SATURATION, HALF = "saturation", "half"
SATURATION_ROUNDS, CURVE_ROUNDS = 3, 3
HALF_SECONDS, CURVE_SECONDS = 3, 2
# Of the asked rate; below it, starts queued at the client for good.
KEPT_UP = 0.97
LOAD_CPUS_FULL = 0.95
SHARES, SHARES_QUICK = (20, 40, 60, 80, 95), (40, 80)


def seconds(options):
    half, curve = each_seconds(options)
    return (bursts_seconds(len(MEASURED), saturation_rounds(options), 1)
            + bursts_seconds(len(MEASURED), options.rounds, half, warm=False)
            + bursts_seconds(len(MEASURED) * len(shares(options)), curve_rounds(options), curve, warm=False))


def each_seconds(options):
    """Of the bursts at half of the rate, and of those of the curve."""
    return (1, 1) if options.quick else (HALF_SECONDS, CURVE_SECONDS)


def saturation_rounds(options):
    return 2 if options.quick else SATURATION_ROUNDS


def shares(options):
    return SHARES_QUICK if options.quick else SHARES


def curve_rounds(options):
    return 1 if options.quick else CURVE_ROUNDS


def share_variant(share):
    return f"{share} %"


def run(rig):
    options, results = rig.options, rig.results
    half, curve = each_seconds(options)
    with rig.bench(rig.wanted(*MEASURED), STAGE) as (bench, driver, _):
        closed = [(gateway, ADMITTED, Load(CONNECTIONS, 1), SATURATION) for gateway in bench.gateways]
        rig.interleaved(driver, closed, saturation_rounds(options))
        for gateway in bench.gateways:
            results.saturation[gateway.name] = median(
                sample.requests_per_second for sample in results.of_stage(STAGE) if sample.gateway == gateway.name)

        def at(per_second, seconds):
            return Load(CONNECTIONS, seconds, OHA, per_second=max(1, int(per_second)))

        # Without tollgate (--gateways) half of the slowest: all can do it.
        most = results.saturation.get(names.TOLLGATE, min(results.saturation.values()))
        rig.interleaved(driver, [(gateway, ADMITTED, at(most / 2, half), HALF) for gateway in bench.gateways],
                        options.rounds, warm=False)
        points = [(gateway, ADMITTED, at(results.saturation[gateway.name] * share / 100, curve), share_variant(share))
                  for share in shares(options) for gateway in bench.gateways]
        rig.interleaved(driver, points, curve_rounds(options), warm=False)


def kept_up(sample):
    """Whether the asked rate was reached: else clients or gateway were at their end."""
    return sample.requests_per_second >= KEPT_UP * sample.asked_per_second


def load_was_limit(sample):
    """Whether the CPUs of generator, upstream and Redis were full: the point says nothing of the gateway."""
    return sample.load_cpus_busy > LOAD_CPUS_FULL
