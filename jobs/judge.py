"""`python -m jobs.judge`: see polyray/cli/judge.py."""

from polyray.cli.arguments import run
from polyray.cli.judge import main

if __name__ == "__main__":
    run(main)
