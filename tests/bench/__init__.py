"""Benchmarks: ratios against a peer or a limit within one run, on a booted machine. `make bench` runs them all."""
