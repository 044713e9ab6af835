"""`python -m jobs.train_reward`: see polyray/cli/train_reward.py."""

from polyray.cli.arguments import run
from polyray.cli.train_reward import main

if __name__ == "__main__":
    run(main)
