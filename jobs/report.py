"""`python -m jobs.report`: see polyray/cli/report.py."""

from polyray.cli.arguments import run
from polyray.cli.report import main

if __name__ == "__main__":
    run(main)
