"""The bounds of `make counts`: reading them, comparing with them, writing them anew."""

import contextlib
import io
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import counts
from rig.processes import RigError

BOUNDS = """\
# Why.
taken_with = "something"

# Steps.
[steps]
decide = {instructions = 100, allowed_percent = 2}
gone = {instructions = 50, allowed_percent = 2}

# Requests.
[requests]
admitted = {instructions = 90000, allowed_percent = 4}
"""


def compared(steps, complete=True):
    """The exit status, and what is printed."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        status = counts.compare({counts.STEPS: steps}, counts.read(BOUNDS), complete)
    return status, printed.getvalue()


class Bounds(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.file = Path(folder.name) / "counts.toml"
        self.file.write_text(BOUNDS)
        patched = {"BOUNDS": self.file, "tools": lambda: "these tools",
                   "REPOSITORY": Path(folder.name), "PROFILES": Path(folder.name) / "callgrind"}
        patch = mock.patch.multiple(counts, **patched)
        patch.start()
        self.addCleanup(patch.stop)

    def test_what_got_dearer_than_allowed_fails(self):
        self.assertEqual(compared({"decide": 102, "gone": 50})[0], 0)
        status, printed = compared({"decide": 103, "gone": 50})
        self.assertEqual(status, 1)
        self.assertIn("DEARER", printed)

    def test_what_got_cheaper_is_told_and_does_not_fail(self):
        status, printed = compared({"decide": 90, "gone": 50})
        self.assertEqual(status, 0)
        self.assertIn("Cheaper than the bound: decide", printed)

    def test_what_has_no_bound_or_is_not_there_any_more_fails(self):
        self.assertIn("NO BOUND", compared({"decide": 100, "gone": 50, "more": 1})[1])
        self.assertEqual(compared({"decide": 100, "gone": 50, "more": 1})[0], 1)
        self.assertEqual(compared({"decide": 100})[0], 1)
        # Of some steps the others are not expected.
        self.assertEqual(compared({"decide": 100}, complete=False)[0], 0)

    def test_other_tools_are_told(self):
        self.assertIn("taken with something; here is these tools", compared({"decide": 100, "gone": 50})[1])

    def test_what_is_measured_becomes_the_bound_and_allowances_and_comments_stay(self):
        bounds = counts.read(BOUNDS)
        counts.update({counts.STEPS: {"decide": 88.4, "lookup_alone": 7.0}}, bounds, kept={})
        self.assertEqual(self.file.read_text(), BOUNDS.replace("something", "these tools").replace(
            "decide = {instructions = 100, allowed_percent = 2}\ngone = {instructions = 50, allowed_percent = 2}\n",
            "decide = {instructions = 88, allowed_percent = 2}\nlookup_alone = {instructions = 7, allowed_percent = 5}\n"))

    def test_of_some_steps_the_bounds_of_the_others_stay(self):
        bounds = counts.read(BOUNDS)
        counts.update({counts.STEPS: {"decide": 88.0}}, bounds, kept=bounds)
        self.assertEqual(self.file.read_text(), BOUNDS.replace("something", "these tools").replace("= 100", "= 88"))

    def test_a_line_that_is_none_is_named(self):
        with self.assertRaisesRegex(RigError, "line 2: expected"):
            counts.read("[steps]\ndecide = 100\n")
