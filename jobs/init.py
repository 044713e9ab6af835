"""`python -m jobs.init`: see polyray/cli/init.py."""

from polyray.cli.arguments import run
from polyray.cli.init import main

if __name__ == "__main__":
    run(main)
