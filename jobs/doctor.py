"""`python -m jobs.doctor`: see polyray/cli/doctor.py."""

from polyray.cli.arguments import run
from polyray.cli.doctor import main

if __name__ == "__main__":
    run(main)
