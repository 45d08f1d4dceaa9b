"""Tests of the load test's own arithmetic; `make bench-check`."""
