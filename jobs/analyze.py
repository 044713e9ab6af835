"""`python -m jobs.analyze`: see polyray/cli/analyze.py."""

from polyray.cli.analyze import main
from polyray.cli.arguments import run

if __name__ == "__main__":
    run(main)
