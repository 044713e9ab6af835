"""The process that starts programs: a clean interpreter with one thread, which forks once per program.

    server.py    requests in, results out; forks           supervise.py  watches a program until nothing of it is left
    confine.py   which isolation this machine allows       kernel.py     the Linux calls for it
    execute.py   inside the child: source, tests, proof    split.py      strict mode: tests and source apart
    root.py      what programs see of the file system      codec.py      the plain values that cross between those
    guard.py     default mode: plain values for the tests

polyray.sandbox.runner starts it with `python -P -s -B -X utf8 -c BOOTSTRAP` in an environment of its own making (`-I`
but for PYTHONHASHSEED=0: equal programs see equal hashes). It runs as a top-level package, imports nothing of polyray
and few modules of the standard library (not even `signal`): each is memory that every program's fork carries.
"""
