"""`python -m jobs.pretrain`: see polyray/cli/pretrain.py."""

from polyray.cli.arguments import run
from polyray.cli.pretrain import main

if __name__ == "__main__":
    run(main)
