"""`polyray COMMAND`: one line for each command; a command is imported when it is called."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from polyray import __version__

COMMANDS = {
    "init": "write the files of a task of your own",
    "quickstart": "train three objectives from one warm start, evaluate and report them",
    "train": "train an adapter by reinforcement learning",
    "sft": "train an adapter on demonstrations",
    "evaluate": "sample, score and compare models: pass@k, USQ, diversity",
    "sweep": "train over a grid of settings and seeds, or search",
    "serve": "serve a trained policy, or reward models, over HTTP",
    "report": "write one HTML page from run directories",
    "export": "export an adapter: merged model, model card, hub",
    "doctor": "check this machine, a model or a cluster",
    "pretrain": "build the embedded base model",
    "models": "list the models that polyray makes, or make one",
    "curate": "make preference data from engagement or selections",
    "train_reward": "train an engagement model on preference data",
    "judge": "compare or rate completions with an LLM judge",
    "analyze": "analyse adapters and finished evaluations",
}
"""Name -> help. A command is the function `main` of the module polyray.cli.NAME."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command that the first argument names, with the rest of the arguments."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = arguments[0].replace("-", "_")
    if name not in COMMANDS:
        import difflib

        from polyray.errors import ConfigError

        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(COMMANDS)}"
        raise ConfigError(f"unknown command {arguments[0]!r}; {hint}")
    return importlib.import_module(f"polyray.cli.{name}").main(arguments[1:]) or 0


def overview(usage: str) -> str:
    """List of the commands."""
    width = max(map(len, COMMANDS))
    lines = [f"usage: {usage} ...", "", "Train language models for Best-of-k use, on Ray and vLLM.", ""]
    lines += [f"  {name:{width}}  {line}" for name, line in COMMANDS.items()]
    return "\n".join([*lines, "", f"{usage.replace('COMMAND', 'NAME')} --help explains one."])


def run_console() -> None:
    """Console script `polyray`; the list of the commands imports nothing else."""
    first = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if first in ("-h", "--help"):
        print(overview("polyray COMMAND"))
    elif first == "--version":
        print(f"polyray {__version__}")
    else:
        from polyray.cli.arguments import run

        run(main)


if __name__ == "__main__":
    run_console()
