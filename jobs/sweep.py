"""`python -m jobs.sweep`: see polyray/cli/sweep.py."""

from polyray.cli.arguments import run
from polyray.cli.sweep import main

if __name__ == "__main__":
    run(main)
