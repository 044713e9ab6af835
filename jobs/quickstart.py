"""`python -m jobs.quickstart`: see polyray/cli/quickstart.py."""

from polyray.cli.arguments import run
from polyray.cli.quickstart import main

if __name__ == "__main__":
    run(main)
