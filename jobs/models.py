"""`python -m jobs.models`: see polyray/cli/models.py."""

from polyray.cli.arguments import run
from polyray.cli.models import main

if __name__ == "__main__":
    run(main)
