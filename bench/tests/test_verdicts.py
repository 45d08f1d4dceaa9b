"""What is met, missed, undecided, too noisy, and what is not measured."""

import unittest

from rig import names, targets
from rig.callgrind import Count
from rig.names import ADMITTED, BARE_PINGORA, TOLLGATE
from rig.rig import Results
from rig.stages import latency, proxying
from rig.stats import Summary
from rig.verdicts import (
    MET, MISSED, NOT_MEASURED, TOO_NOISY, UNDECIDED, judge_cost, judge_gain, judge_middle, noise_of,
)
from tests.made_up import bursts

AGAINST_BARE = "Admitted start against bare Pingora: CPU time"
LATENCY = "Added latency at one connection, median, over bare Pingora"
BACK = "Memory after a burst of 10,000 connections and ten minutes"


def row(results, what, cpus=8):
    return next(one for one in targets.table(results, cpus) if one.what == what)


def results(ours, bare, **more):
    return Results(samples=bursts(TOLLGATE, ours) + bursts(BARE_PINGORA, bare), **more)


def counted(ours, bare, spread=0.0):
    return [Count(gateway, ADMITTED, 64, 2000, [value * (1 - spread), value, value * (1 + spread)], 80.0).as_dict()
            for gateway, value in ((TOLLGATE, ours), (BARE_PINGORA, bare))]


class Judging(unittest.TestCase):
    def test_of_a_cost_the_lower_quartile_counts(self):
        self.assertEqual(judge_cost(Summary(1.00, 1.20, 1.30), 1.10), MET)
        self.assertEqual(judge_cost(Summary(1.20, 1.30, 1.40), 1.10), MISSED)

    def test_a_cost_next_to_its_limit_is_undecided(self):
        self.assertEqual(judge_cost(Summary(1.09, 1.15, 1.20), 1.10), UNDECIDED)
        self.assertEqual(judge_cost(Summary(1.11, 1.15, 1.20), 1.10), UNDECIDED)
        self.assertEqual(judge_cost(Summary(1.09, 1.10, 1.11), 1.10), MET)

    def test_of_a_latency_the_median_counts(self):
        self.assertEqual(judge_middle(Summary(1.0, 1.3, 1.9), 1.3), MET)
        self.assertEqual(judge_middle(Summary(1.2, 1.4, 1.9), 1.3), UNDECIDED)
        self.assertEqual(judge_middle(Summary(1.4, 1.5, 1.9), 1.3), MISSED)

    def test_of_a_gain_the_upper_quartile_counts(self):
        self.assertEqual(judge_gain(Summary(1.5, 1.6, 1.8), 1.7), MET)
        self.assertEqual(judge_gain(Summary(1.3, 1.4, 1.5), 1.7), MISSED)

    def test_a_restless_yardstick_or_a_busy_machine_is_noise(self):
        quiet, restless = Summary(9.5, 10, 10.5), Summary(9, 10, 11)
        self.assertEqual(noise_of(quiet, 0.05, "bare"), "")
        self.assertIn("bare itself varied by 20%", noise_of(restless, 0.05, "bare"))
        self.assertIn("others had 30%", noise_of(quiet, 0.30, "bare"))


class Table(unittest.TestCase):
    def test_a_good_ratio_on_a_quiet_machine_is_met(self):
        found = row(results([10.5, 10.5, 10.6], [10, 10, 10]), AGAINST_BARE)
        self.assertEqual((found.verdict, found.measured), (MET, "1.05 (median 1.05) times"))

    def test_noise_gives_no_verdict_however_good_the_figure(self):
        self.assertEqual(row(results([5, 9, 15], [10, 18, 30]), AGAINST_BARE).verdict, TOO_NOISY)
        busy = results([5, 5, 5], [10, 10, 10], elsewhere={proxying.STAGE: 0.4})
        self.assertEqual(row(busy, AGAINST_BARE).verdict, TOO_NOISY)

    def test_instructions_decide_what_time_cannot(self):
        close = dict(ours=[10.95, 11.3, 11.4], bare=[10, 10, 10])
        self.assertEqual(row(results(**close), AGAINST_BARE).verdict, UNDECIDED)
        self.assertEqual(row(results(**close, instructions=counted(120, 100)), AGAINST_BARE).verdict, MISSED)
        self.assertEqual(row(results(**close, instructions=counted(105, 100)), AGAINST_BARE).verdict, MET)

    def test_instructions_whose_repetitions_disagree_decide_nothing(self):
        what = "Admitted start against bare Pingora: instructions"
        self.assertEqual(row(Results(instructions=counted(109, 100, spread=0.002)), what).verdict, MET)
        found = row(Results(instructions=counted(109, 100, spread=0.02)), what)
        self.assertEqual((found.verdict, found.measured), (UNDECIDED, "1.09 times (109 / 100)"))

    def test_instructions_do_not_overrule_noise(self):
        found = row(results([5, 9, 15], [10, 18, 30], instructions=counted(105, 100)), AGAINST_BARE)
        self.assertEqual(found.verdict, TOO_NOISY)

    def test_what_was_left_out_or_failed_says_so(self):
        self.assertEqual({one.verdict for one in targets.table(Results(), 8)}, {NOT_MEASURED})
        failed = row(Results(failed={proxying.STAGE: "no port"}), AGAINST_BARE)
        self.assertIn("failed", failed.why)
        missing = row(Results(not_measured={names.ENVOY: "no wheel"}), "Admitted start against Envoy+ext_authz")
        self.assertEqual((missing.verdict, missing.why), (NOT_MEASURED, "no wheel"))

    def test_added_latency_may_be_a_round_trip_and_a_little(self):
        def at_one(gateway, p50_us):
            return bursts(gateway, [1.0] * 3, connections=1, percentiles_us={"50": p50_us})

        for ours, verdict in ((137.0, MET), (140.0, MISSED)):
            found = row(Results(samples=at_one(TOLLGATE, ours) + at_one(BARE_PINGORA, 100.0), round_trips_us=[23.0] * 3), LATENCY)
            self.assertEqual((found.verdict, found.figures["limit_us"]), (verdict, 38.0))

    def test_two_threads_are_not_judged_where_there_are_no_cpus_for_them(self):
        samples = [one for gateway, rate in ((TOLLGATE, 100.0), (names.TOLLGATE_THREADS, 190.0))
                   for one in bursts(gateway, [1.0] * 3, stage="threads", requests_per_second=rate)]
        what = "Throughput of two threads against one"
        self.assertEqual(row(Results(samples=samples), what, cpus=4).verdict, MET)
        few = row(Results(samples=samples), what, cpus=2)
        self.assertEqual(few.verdict, NOT_MEASURED)
        self.assertIn("1.90", few.measured)

    def test_memory_that_is_not_back_too_early_is_undecided_and_later_missed(self):
        def after(seconds, resident):
            return Results(memory={TOLLGATE: {"before": 100, "per_connection": 14_000, "after": [[1, 300], [seconds, resident]]}})

        self.assertEqual(row(after(60, 119), BACK).verdict, MET)
        self.assertEqual(row(after(60, 121), BACK).verdict, UNDECIDED)
        self.assertEqual(row(after(601, 121), BACK).verdict, MISSED)

    def test_a_storm_is_judged_with_the_memory_of_refusals(self):
        def sample(memory, storm_ms):
            return {"memory": memory, "quiet": {"p99_ms": 2.0}, "storm": {"p99_ms": storm_ms}}

        what = "99th percentile of admitted teams while 10,000 connections of refused teams storm, against quiet"
        found = row(Results(storm={"samples": [sample(None, 9.0), sample("250ms", 2.8)]}), what)
        self.assertEqual(found.verdict, MET)
        self.assertIn("1.40 times", found.measured)
        self.assertIn("without the memory of refusals 4.50 times", found.measured)

    def test_a_rate_that_was_not_reached_gives_no_verdict_on_the_tail(self):
        def half(gateway, rate):
            return bursts(gateway, [1.0] * 3, stage=latency.STAGE, variant=latency.HALF, asked_per_second=1000,
                          requests_per_second=rate, percentiles_us={"99": 100.0})

        what = "99th percentile at half of the saturating rate, open loop, against bare Pingora"
        self.assertEqual(row(Results(samples=half(TOLLGATE, 1000.0) + half(BARE_PINGORA, 1000.0)), what).verdict, MET)
        self.assertEqual(row(Results(samples=half(TOLLGATE, 900.0) + half(BARE_PINGORA, 1000.0)), what).verdict, TOO_NOISY)
