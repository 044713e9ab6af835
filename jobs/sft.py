"""`python -m jobs.sft`: see polyray/cli/sft.py."""

from polyray.cli.arguments import run
from polyray.cli.sft import main

if __name__ == "__main__":
    run(main)
