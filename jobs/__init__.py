"""Command lines by name: `python -m jobs.train CONFIG.yaml`. The program is polyray/cli/."""
