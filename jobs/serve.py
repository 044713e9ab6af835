"""`python -m jobs.serve`: see polyray/cli/serve.py."""

from polyray.cli.arguments import run
from polyray.cli.serve import main

if __name__ == "__main__":
    run(main)
