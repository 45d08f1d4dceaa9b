"""Whether a request costs more when there are many teams, or many routes."""

from rig import names
from rig.generators import Load
from rig.names import ADMITTED
from rig.timing import bursts_seconds

STAGE = "scale"
CONNECTIONS = 64
TEAMS, TEAMS_QUICK = (1, 1_000, 100_000, 1_000_000), (1, 1_000_000)
# Making and loading the balances of a million teams.
LOADING_SECONDS = 6


def teams(options):
    return TEAMS_QUICK if options.quick else TEAMS


def teams_variant(count):
    return f"{count} teams"


def seconds(options):
    cells = len(teams(options)) + 2 + (0 if options.quick else len(TEAMS_QUICK))
    return LOADING_SECONDS + bursts_seconds(cells, options.rounds, options.seconds)


def run(rig):
    options = rig.options
    # A quick run looks at tollgate alone.
    peers = () if options.quick else (names.NGINX_LUA,)
    wanted = rig.wanted(names.TOLLGATE, *peers)
    routes = rig.wanted(names.ROUTES_FEW, names.ROUTES_MANY)
    with rig.bench([*wanted, *routes], STAGE) as (bench, driver, _):
        bench.load_teams(max(teams(options)))
        cells = [(bench[gateway], ADMITTED, Load(CONNECTIONS, options.seconds, teams=count), teams_variant(count))
                 for gateway in wanted
                 for count in (teams(options) if gateway == names.TOLLGATE else TEAMS_QUICK)]
        cells += [(bench[gateway], ADMITTED, Load(CONNECTIONS, options.seconds), "") for gateway in routes]
        rig.interleaved(driver, cells, options.rounds)
