"""`python -m jobs`: list of the commands."""

from polyray.cli.__main__ import overview

if __name__ == "__main__":
    print(overview("python -m jobs.COMMAND"))
