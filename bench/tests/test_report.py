"""The page and the text: from figures that nobody measured, whole and self-contained."""

import json
import re
import tempfile
import unittest
from pathlib import Path

from rig import names, report
from rig.callgrind import Count
from rig.names import REFUSED
from rig.report import svg
from rig.rig import Results
from rig.stages import extras, latency, proxying, scale
from tests.made_up import bursts

SETTINGS = {"run": "quick: a first look, no claim", "date": "2026-01-01 00:00 UTC"}
FACTS = {"cpus": 2, "commit": "abc"}


def everything():
    """Something for each chart and each row."""
    samples = []
    for gateway in proxying.USUAL:
        for outcome in names.outcomes_of(gateway):
            for connections in (1, 64, 512):
                samples += bursts(gateway, [30, 31, 32], outcome=outcome, connections=connections)
    for gateway in latency.MEASURED:
        for variant in (latency.HALF, *map(latency.share_variant, latency.SHARES)):
            samples += bursts(gateway, [30, 31, 32], stage=latency.STAGE, variant=variant)
    for count in scale.TEAMS:
        samples += bursts(names.TOLLGATE, [30, 31, 32], stage=scale.STAGE, variant=scale.teams_variant(count))
    for variant in (extras.HTTP2, extras.OVER_TLS, extras.BIG_BODY):
        samples += bursts(names.TOLLGATE, [30, 31, 32], stage=extras.STAGE, variant=variant, percentiles_us={})
    memory = {names.TOLLGATE: {"before": 2e7, "burst": 3e8, "idle": 1e8, "per_connection": 9e3, "after": [[1, 1e8], [60, 2e7]]}}
    instructions = [Count(names.TOLLGATE, REFUSED, 64, 2000, [49_000.0, 50_000.0], 38.0).as_dict()]
    return Results(samples=samples, memory=memory, instructions=instructions, round_trips_us=[20.0] * 3, not_measured={"storm": "<none> & such"})


class Report(unittest.TestCase):
    def written(self, results):
        with tempfile.TemporaryDirectory() as folder:
            text = report.write(Path(folder), FACTS, SETTINGS, results)
            again = json.loads((Path(folder) / "report.json").read_text())
            page = (Path(folder) / "report.html").read_text()
            report.write_again(Path(folder))
            self.assertEqual((Path(folder) / "report.html").read_text(), page)
        return text, again, page

    def test_everything_is_on_the_page_and_nothing_comes_from_elsewhere(self):
        text, told, page = self.written(everything())
        self.assertEqual(page.count("<figure>"), 10)
        self.assertIsNone(re.search(r"(src|href)=\"(?!report\.(json|txt)\")", page))
        self.assertNotIn("url(", page)
        self.assertIn("&lt;none&gt; &amp; such", page)
        self.assertEqual(len(told["samples"]), len(everything().samples))
        self.assertIn("49,500 per request (2 times 2,000 requests), 38 allocations", text)
        self.assertIn("Every answer was the expected one.", text)

    def test_a_run_of_nothing_still_gives_a_report(self):
        text, _, page = self.written(Results())
        self.assertIn("not measured", text)
        self.assertNotIn("<figure>", page)

    def test_a_wrong_answer_is_told_first(self):
        samples = bursts(names.TOLLGATE, [1.0], outcome=REFUSED, wrong=2, notes=["2 refused starts reached the upstream"])
        text, _, page = self.written(Results(samples=samples))
        self.assertIn("WRONG ANSWERS", text)
        self.assertLess(page.index("Wrong answers in 1 bursts"), page.index("<table"))


class Drawing(unittest.TestCase):
    def test_bars_begin_at_zero(self):
        self.assertEqual(svg.Linear([50, 100]).share(0), 0)
        self.assertEqual(svg.Linear([50, 100]).ticks()[0], 0)

    def test_a_logarithmic_axis_holds_all_values(self):
        axis = svg.Logarithmic([0.3, 7])
        self.assertEqual((axis.low, axis.high), (0.2, 10))
        self.assertEqual((axis.share(0.2), axis.share(10)), (0, 1))

    def test_percentiles_are_as_far_apart_as_their_nines(self):
        axis = svg.Nines(["90", "99", "99.9"])
        self.assertAlmostEqual(axis.share("99"), 0.5)

    def test_names_are_pushed_apart_and_stay_on_the_chart(self):
        self.assertEqual(svg.apart([10, 12, 60], 13, 100), [10, 23, 60])
        self.assertEqual(svg.apart([90, 95, 99], 13, 100), [74, 87, 100])
