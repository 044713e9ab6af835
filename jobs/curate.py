"""`python -m jobs.curate`: see polyray/cli/curate.py."""

from polyray.cli.arguments import run
from polyray.cli.curate import main

if __name__ == "__main__":
    run(main)
