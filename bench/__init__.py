"""Benchmarks: every number in the README comes from here.

`python -m bench` starts a server and a load generator, each in its own process, measures what DESIGN budgets and writes
`results/latest.json`, `results/results.md` and `results/latency.svg`. Everything runs on 127.0.0.1.
"""
