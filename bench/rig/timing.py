"""How long a part of the load test takes."""

# Beside its seconds, a burst waits for quiet and for the generator to end.
AROUND_BURST_SECONDS = 0.4
# Before the first round each cell is tried once.
WARM_UP_SECONDS = 1.3
START_SECONDS = 3


def bursts_seconds(cells, rounds, seconds, warm=True):
    """Of interleaved rounds of so many cells."""
    once = START_SECONDS + cells * WARM_UP_SECONDS if warm else 0
    return once + cells * rounds * (seconds + AROUND_BURST_SECONDS)
