"""User instructions per request: time depends on what else the machine does, these hardly do."""

from rig import callgrind, names
from rig.callgrind import How

STAGE = "instructions"
GATEWAYS = (names.BARE_PINGORA, names.BARE_REFUSAL, names.TOLLGATE)
# What can run under callgrind: programs of ours.
COUNTABLE = tuple(name for name in names.ALL if name not in (names.BARE_UPSTREAM, names.NGINX_LUA, names.ENVOY))
# What can be asked for; what passes is compared by `make counts`, and has no target here.
OUTCOMES = (*names.OUTCOMES, names.PASSED)
HOW, HOW_QUICK = How(), How(repeat=2)
# Under valgrind a gateway starts slowly, is some fifty times slower, and is asked
# to write down what it has counted.
START_SECONDS, WARM_UP_SECONDS, REPETITION_SECONDS = 8, 2, 2


def seconds(options):
    return START_SECONDS + 4 * (WARM_UP_SECONDS + REPETITION_SECONDS * _how(options).repeat)


def run(rig):
    count(rig, rig.wanted(*GATEWAYS), names.OUTCOMES, _how(rig.options))


def count(rig, wanted, outcomes, how, told=lambda counted, dump: None):
    """Counts all of these, one after the other; each is told with callgrind's dump."""
    with rig.bench(wanted, STAGE, under=callgrind.under_callgrind) as (bench, _, programs):
        for outcome in outcomes:
            for gateway in bench.gateways:
                if can(gateway.name, outcome):
                    counted, dump = callgrind.count(bench, programs.folder, gateway, outcome, how)
                    rig.results.instructions.append(counted.as_dict())
                    told(counted, dump)


def can(gateway, outcome):
    """Whether a gateway can be asked for this: what forwards a start forwards the rest too."""
    return (names.ADMITTED if outcome == names.PASSED else outcome) in names.outcomes_of(gateway)


def _how(options):
    return HOW_QUICK if options.quick else HOW
