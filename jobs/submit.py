"""`python -m jobs.submit`: see polyray/cli/submit.py."""

from polyray.cli.arguments import run
from polyray.cli.submit import main

if __name__ == "__main__":
    run(main)
