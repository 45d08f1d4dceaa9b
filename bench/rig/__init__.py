"""The load test behind `make bench`; see bench/README.md."""
