"""`python -m jobs.export`: see polyray/cli/export.py."""

from polyray.cli.arguments import run
from polyray.cli.export import main

if __name__ == "__main__":
    run(main)
