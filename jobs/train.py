"""`python -m jobs.train`: see polyray/cli/train.py."""

from polyray.cli.arguments import run
from polyray.cli.train import main

if __name__ == "__main__":
    run(main)
