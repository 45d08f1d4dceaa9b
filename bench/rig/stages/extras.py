"""HTTP/2, TLS, bodies of a megabyte, the access log: rows beside the targets."""

from rig import names
from rig.gateways import H2C, HTTP1, TLS
from rig.generators import H2_CONNECTIONS, H2LOAD, Load
from rig.names import ADMITTED
from rig.timing import bursts_seconds

STAGE = "extras"
BASIC = (names.BARE_PINGORA, names.TOLLGATE)
# Nothing is judged here: a few rounds less do.
ROUNDS_MOST = 5
CONNECTIONS, BIG_CONNECTIONS = 64, 16
MEGABYTE = 2**20
HTTP2, OVER_TLS, BIG_BODY, LOGGED = "HTTP/2, 8 streams", "TLS", "1 MB body", "access log"


def gateways(options):
    return (*BASIC, *(() if options.quick else (names.NGINX_LUA, names.ENVOY)))


def rounds(options):
    return min(options.rounds, ROUNDS_MOST)


def seconds(options):
    return sum(bursts_seconds(cells, rounds(options), options.seconds)
               for cells in (len(gateways(options)) + 2, len(gateways(options)), len(gateways(options))))


def run(rig):
    options = rig.options
    wanted = rig.wanted(*gateways(options))
    log = rig.wanted(names.TOLLGATE, names.TOLLGATE_LOG)
    with rig.bench([*wanted, *log], STAGE, HTTP1) as (bench, driver, _):
        plain, big = Load(CONNECTIONS, options.seconds), Load(BIG_CONNECTIONS, options.seconds, body_bytes=MEGABYTE)
        cells = [(bench[gateway], ADMITTED, big, BIG_BODY) for gateway in wanted]
        cells += [(bench[gateway], ADMITTED, plain, LOGGED) for gateway in log]
        rig.interleaved(driver, cells, rounds(options))
    for speaks, variant, load in (
            (H2C, HTTP2, Load(H2_CONNECTIONS, options.seconds, H2LOAD)),
            (TLS, OVER_TLS, Load(CONNECTIONS, options.seconds))):
        with rig.bench(wanted, STAGE, speaks) as (bench, driver, _):
            rig.interleaved(driver, [(gateway, ADMITTED, load, variant) for gateway in bench.gateways], rounds(options))
