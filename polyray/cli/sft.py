"""Supervised fine-tuning of a LoRA adapter on Ray Train: the warm start of RL, or on data of your own.

Reads an SftConfig (configs/sft/), writes runs/NAME/: config.json, metrics.jsonl, checkpoints/, samples/ (with
evaluation.num_samples), and at the end adapter/ (PEFT format) and DONE. polyray train continues from it:
model.warm_start=runs/NAME/adapter. Ctrl-C or SIGTERM ends it after the current step, with a checkpoint; the same
command resumes from the last one.

  data        the task's demonstrations, or data.type=jsonl data.train=FILE with one object a line:
              {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}
              or {"prompt": "...", "completion": "..."}; only the assistant's tokens are trained
              (completion_only), of its last turn or of all (data.train_on)
  length      learner.steps, or epochs; max_tokens with too_long: error, drop or truncate; packing
  objective   cross_entropy; gem (keeps more of the model's spread); ba_lora (principal-component start, three
              regularisers; the adapter has twice the rank: RL from it sets model.lora.rank and alpha so);
              polychromic (L = CE - diversity_weight x D of sets that rollout workers sample: the loop of
              polyray train with cross-entropy beside it, on task demonstrations)
  evaluation  every, num_rows, num_samples, early_stopping: {patience, min_delta}; data.validation is a file
              of its own, data.validation_share a part of data.train

  polyray sft configs/sft/hidden_trap_grid.yaml
  polyray sft configs/sft/hidden_trap_grid.yaml name=short learner.steps=50 --check
  polyray sft configs/sft/hidden_trap_grid_polychromic.yaml objective.diversity_weight=0.3
  polyray sft configs/sft/my_data.yaml epochs=5 evaluation.every=2
"""

from __future__ import annotations

from collections.abc import Sequence

from polyray.capacity.derived import derived_sizes as train_sizes
from polyray.cli.arguments import parse
from polyray.config.run import SftConfig
from polyray.launch.plan import check_sft, check_training
from polyray.launch.sft import as_training, derived_sizes, run_sft


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    args = parse(argv, job="sft", description=__doc__, config_model=SftConfig, reward_key="objective.reward")
    config = args.config
    training = as_training(config)
    if args.check:
        return args.print_check(
            derived=lambda: derived_sizes(config) if training is None else train_sizes(training),
            inputs=lambda: check_sft(config) if training is None else check_training(training),
        )
    run_sft(config)
    return 0
