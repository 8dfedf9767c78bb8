"""The ring at scale, by simulation, and beside what else could say who owns a key.

`python -m bench.ring` builds fleets of 10 to 10,000 instances in one process, lets instances join and leave, and writes
`results/ring.md` and `results/ring.svg`. Nothing is sent anywhere.
"""
