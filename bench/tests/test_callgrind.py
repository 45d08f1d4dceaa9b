"""Reading what callgrind writes, and how figures of repetitions are told."""

import tempfile
import unittest
from pathlib import Path

from rig import callgrind, names
from rig.callgrind import Count
from rig.stages import instructions

# A name is told where it comes first; afterwards its number stands for it.
DUMP = """\
# callgrind format
events: Ir
fn=(1) tollgate::edge::admit
10 5
cfn=(2) mi_malloc_aligned
calls=3 0
10 30
cfn=(3) memcpy
calls=9 0
10 90
fn=(2)
20 7
cfn=(4) mi_malloc
calls=100 0
20 1
fn=(5) _mi_page_fresh
cfn=(4)
calls=50 0
30 1
fn=(6) alloc::finish_grow
cfn=(7) mi_realloc_aligned
calls=4 0
40 8
cfn=(8) mi_free
calls=7 0
40 8
totals: 12345
"""


def count(*each):
    return Count(names.TOLLGATE, names.ADMITTED, 64, 2000, list(each), 80.0)


class Dump(unittest.TestCase):
    def test_the_total_is_read_whichever_word_stands_before_it(self):
        self.assertEqual(callgrind.instructions(DUMP), 12345)
        self.assertEqual(callgrind.instructions(DUMP.replace("totals", "summary")), 12345)

    def test_the_allocator_is_counted_where_others_call_it(self):
        self.assertEqual(callgrind.calls_of_allocator(DUMP), 3 + 4)

    def test_a_dump_that_is_kept_says_of_how_many_requests_it_is(self):
        with tempfile.TemporaryDirectory() as folder:
            callgrind.keep(Path(folder) / "new", count(1.0), DUMP)
            kept = (Path(folder) / "new" / "tollgate-admitted-64.out").read_text()
        self.assertEqual(kept, "# requests: 2000\n" + DUMP)


class Repetitions(unittest.TestCase):
    def test_the_median_is_told_and_how_far_they_are_apart(self):
        told = count(99.0, 100.0, 103.0)
        self.assertEqual((told.instructions, told.spread), (100.0, 0.04))
        self.assertEqual(told.as_dict()["instructions"], 100.0)
        self.assertIn("spread 4.00% of 3", str(told))


class Asking(unittest.TestCase):
    def test_what_forwards_a_start_passes_the_rest(self):
        self.assertTrue(instructions.can(names.BARE_PINGORA, names.PASSED))
        self.assertTrue(instructions.can(names.TOLLGATE, names.PASSED))
        self.assertFalse(instructions.can(names.BARE_REFUSAL, names.PASSED))
        self.assertFalse(instructions.can(names.BARE_PINGORA, names.REFUSED))
