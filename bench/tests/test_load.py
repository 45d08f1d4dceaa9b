"""What makes an answer wrong."""

import unittest

from rig.generators import Burst, Load
from rig.load import complaints
from rig.names import ADMITTED, REFUSED

LOAD = Load(64, 1)


def burst(requests=1000, at_least_400=0, statuses=None, **more):
    return Burst(requests, 1.0, statuses or {}, at_least_400, **more)


class Complaints(unittest.TestCase):
    def test_a_burst_as_it_should_be_has_none(self):
        self.assertEqual(complaints(ADMITTED, LOAD, burst(), 1003, None), [])
        self.assertEqual(complaints(REFUSED, LOAD, burst(at_least_400=1000, bytes=500_000), 0, 500), [])

    def test_a_refused_start_that_reached_the_upstream_is_wrong(self):
        self.assertEqual(complaints(REFUSED, LOAD, burst(at_least_400=1000), 1, None),
                         [(1, "1 refused starts reached the upstream")])

    def test_an_admitted_answer_without_the_upstream_is_wrong(self):
        self.assertEqual(complaints(ADMITTED, LOAD, burst(), 990, None)[0][0], 10)

    def test_a_503_among_refusals_shows_by_its_length(self):
        found = complaints(REFUSED, LOAD, burst(at_least_400=1000, bytes=400_000), 0, 500)
        self.assertEqual(found, [(136, "136 refusals were not as long as the others")])

    def test_statuses_count_where_the_generator_tells_them(self):
        found = complaints(ADMITTED, LOAD, burst(1000, 2, {200: 998, 503: 2}), 1000, None)
        self.assertEqual(found, [(2, "2 answers were not 200")])

    def test_socket_errors_count(self):
        found = complaints(ADMITTED, LOAD, burst(troubles={"read errors": 3}), 1000, None)
        self.assertEqual(found, [(3, "3 read errors")])
