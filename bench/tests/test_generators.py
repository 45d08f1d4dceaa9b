"""Reading what the generators print."""

import unittest
from pathlib import Path

from rig import generators
from rig.names import PROMPT
from rig.processes import RigError

PRINTED = Path(__file__).parent / "printed"


def printed(name):
    return (PRINTED / name).read_text()


class Generators(unittest.TestCase):
    def test_wrk_tells_percentiles_statuses_and_what_went_wrong(self):
        burst = generators.read_wrk(printed("wrk.txt"))
        self.assertEqual((burst.requests, burst.at_least_400, burst.bytes), (4085, 2, 812915))
        self.assertAlmostEqual(burst.seconds, 1.0005)
        self.assertEqual(burst.statuses, {200: 4083, 403: 2})
        self.assertEqual(burst.percentiles_us, {"50": 15130.0, "99": 26270.0, "99.9": 30000.0})
        self.assertEqual(burst.troubles, {"timeout errors": 1})

    def test_oha_tells_seconds_which_become_microseconds(self):
        burst = generators.read_oha(printed("oha.json"))
        self.assertEqual((burst.requests, burst.seconds, burst.at_least_400), (200, 2.0, 2))
        self.assertAlmostEqual(burst.percentiles_us["50"], 228.26)
        self.assertAlmostEqual(burst.percentiles_us["99.9"], 3390.446)
        self.assertEqual(burst.troubles, {"connection refused": 1})

    def test_a_percentile_that_oha_does_not_know_is_left_out(self):
        self.assertNotIn("99.99", generators.read_oha(printed("oha.json")).percentiles_us)

    def test_h2load_tells_classes_of_statuses(self):
        burst = generators.read_h2load(printed("h2load.txt"))
        self.assertEqual((burst.requests, burst.seconds), (22843, 1.0))
        self.assertEqual(burst.statuses, {200: 22840, 500: 3})
        self.assertEqual(burst.troubles, {"errored": 2, "timeout": 1})

    def test_h2load_may_tell_milliseconds(self):
        text = printed("h2load.txt").replace("finished in 1.00s", "finished in 950.50ms")
        self.assertAlmostEqual(generators.read_h2load(text).seconds, 0.9505)

    def test_redis_benchmark_tells_the_median_round_trip(self):
        self.assertAlmostEqual(generators.read_redis_benchmark(printed("redis-benchmark.csv")), 23.0)

    def test_what_printed_no_result_is_an_error_and_no_zero(self):
        for read in (generators.read_wrk, generators.read_h2load, generators.read_redis_benchmark):
            with self.subTest(read=read.__name__), self.assertRaises(RigError):
                read("unable to connect")
        with self.assertRaises(ValueError):
            generators.read_oha("unable to connect")

    def test_the_prompt_has_65_bytes(self):
        self.assertEqual(len(PROMPT), 65)
