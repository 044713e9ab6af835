"""The command lines: `python -m jobs` lists them, `python -m jobs.NAME --help` explains one.

Run them from the root of the repository. One file per job, each about a screen: parse, wire, run, report.
Jobs wire `polyray` and `services` together; nothing imports them but other jobs. cli.py is what they share.
"""
