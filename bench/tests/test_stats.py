"""Quartiles, and ratios pair by pair."""

import unittest

from rig import stats
from rig.names import ADMITTED, BARE_PINGORA, TOLLGATE
from rig.stages import proxying
from rig.stats import Cell
from tests.made_up import burst, bursts

OURS, BARE = (Cell(proxying.STAGE, gateway, ADMITTED, 64) for gateway in (TOLLGATE, BARE_PINGORA))


class Stats(unittest.TestCase):
    def test_quartiles_are_those_of_the_values(self):
        found = stats.summary([5, 1, 4, 2, 3])
        self.assertEqual((found.lower, found.median, found.upper), (2, 3, 4))
        self.assertAlmostEqual(found.spread, 2 / 3)

    def test_one_value_is_its_own_quartiles(self):
        found = stats.summary([7])
        self.assertEqual((found.lower, found.median, found.upper, found.spread), (7, 7, 7, 0))

    def test_no_values_give_no_summary(self):
        self.assertIsNone(stats.summary([]))
        self.assertIsNone(stats.summary([None]))

    def test_a_ratio_is_taken_within_rounds_so_that_noise_of_both_cancels(self):
        samples = bursts(TOLLGATE, [11, 22, 33]) + bursts(BARE_PINGORA, [10, 20, 30])
        found = stats.ratio(samples, OURS, BARE, "gateway_cpu_us")
        self.assertAlmostEqual(found.lower, 1.1)
        self.assertAlmostEqual(found.upper, 1.1)

    def test_rounds_in_which_one_is_missing_do_not_count(self):
        samples = bursts(TOLLGATE, [11, 22]) + [burst(BARE_PINGORA, 2, 20), burst(BARE_PINGORA, 9, 1)]
        self.assertEqual(stats.pairs(samples, OURS, BARE, "gateway_cpu_us"), [(22, 20)])

    def test_a_difference_is_taken_within_rounds(self):
        samples = bursts(TOLLGATE, [12, 25, 38]) + bursts(BARE_PINGORA, [10, 20, 30])
        self.assertEqual(stats.difference(samples, OURS, BARE, "gateway_cpu_us").median, 5)

    def test_other_cells_are_left_alone(self):
        samples = bursts(TOLLGATE, [1, 2, 3]) + bursts(TOLLGATE, [100] * 3, variant="TLS")
        self.assertEqual(stats.figure(samples, OURS, "gateway_cpu_us").median, 2)

    def test_a_percentile_that_was_not_told_is_no_figure(self):
        samples = bursts(TOLLGATE, [1, 2], percentiles_us={})
        self.assertIsNone(stats.figure(samples, OURS, "p99_us"))
