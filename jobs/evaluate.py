"""`python -m jobs.evaluate`: see polyray/cli/evaluate.py."""

from polyray.cli.arguments import run
from polyray.cli.evaluate import main

if __name__ == "__main__":
    run(main)
