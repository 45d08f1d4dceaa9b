"""CPU time, throughput and closed-loop latency of all gateways, at several numbers of connections."""

from rig import names
from rig.generators import Load, redis_round_trip
from rig.names import ADMITTED, OUTCOMES, REFUSED, TEAMS, outcomes_of
from rig.timing import bursts_seconds

STAGE = "proxying"
# The number of connections at which all are compared; the targets name it.
MAIN = 64
# Compared at other numbers of connections, too.
BASIC = (names.BARE_PINGORA, names.BARE_REFUSAL, names.TOLLGATE, names.NGINX_LUA, names.ENVOY)
USUAL = (*BASIC, names.BARE_UPSTREAM, names.TOLLGATE_WAYS, names.TOLLGATE_HOLD, names.TOLLGATE_RUNS)
# A quick run has what the targets name: of one connection the latency that is added.
QUICK = {(gateway, ADMITTED, MAIN) for gateway in (*BASIC, names.TOLLGATE_HOLD)}
QUICK |= {(gateway, REFUSED, MAIN) for gateway in BASIC}
QUICK |= {(gateway, ADMITTED, 1) for gateway in (names.BARE_PINGORA, names.TOLLGATE)}
ROUND_TRIP_KEY = f"credits:{{{TEAMS[ADMITTED]}}}"


def plan(options):
    """(gateway, outcome, connections) in the order of a round; what is compared stands side by side."""
    usual = USUAL + (names.TOLLGATE_BEFORE,) * (names.TOLLGATE_BEFORE in options.gateways)
    return [(gateway, outcome, connections)
            for outcome in OUTCOMES
            for connections in options.connections
            for gateway in names.ALL
            if gateway in usual and (not options.gateways or gateway in options.gateways)
            and outcome in outcomes_of(gateway)
            and (connections == MAIN or gateway in BASIC)
            and (not options.quick or (gateway, outcome, connections) in QUICK)]


def seconds(options):
    return bursts_seconds(len(plan(options)), options.rounds, options.seconds)


def run(rig):
    options = rig.options
    wanted = rig.wanted(*{gateway for gateway, *_ in plan(options)})
    with rig.bench(wanted, STAGE) as (bench, driver, _):
        cells = [(bench[gateway], outcome, Load(connections, options.seconds), "")
                 for gateway, outcome, connections in plan(options) if gateway in wanted]

        def round_trip(_):
            # From where the gateway asks: its CPU.
            rig.results.round_trips_us.append(
                redis_round_trip(bench.redis.port, ROUND_TRIP_KEY, rig.gateway_cpus))

        rig.interleaved(driver, cells, options.rounds, round_trip if 1 in options.connections else None)
