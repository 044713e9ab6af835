"""Measures the learner beside that of TRL 1.16 (GRPOTrainer) on the same completions, in turns, in one process.

Both train LoRA adapters of one shape on the same model, in one dtype, on the same groups, rewards and micro batches;
no KL term, no gradient checkpointing. Timed on TRL's side: forward, backward and optimiser (its scoring of the
completions is left out); on polyray's: the whole learner step with all its metrics. Generation is on neither side:
`jobs.benchmark loop` measures whole steps of the training loop.

embedded: 16 x 16 completions that the embedded model samples. random: random weights and tokens, lengths drawn from
an exponential distribution with --mean-share of the longest as its mean.

  python -m jobs.benchmark trl
  python -m jobs.benchmark trl --model random --mean-share 0.3 --groups 2 --out trl.json

TRL is no requirement of polyray. Install it beside: pip install --no-deps --target DIR 'trl==1.16.*'; PYTHONPATH=DIR.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from jobs.benchmark.learner import policy_logprobs
from jobs.benchmark.measure import Measure, conclude, machine
from jobs.cli import JobParser
from polyray.errors import EXIT_OK, ConfigError

NEEDED = ("trl", "datasets", "accelerate")
HOW_TO_INSTALL = (
    "pip install --no-deps --target DIR 'trl==1.16.*' accelerate datasets, and set PYTHONPATH=DIR"
)
RANDOM_SHAPE: dict[str, Any] = {
    "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "num_key_value_heads": 4,
    "head_dim": 64, "intermediate_size": 2048, "vocab_size": 8192, "tie_word_embeddings": True,
    "max_position_embeddings": 4096,
}  # fmt: skip
"""About 90 M parameters."""
LIMITS = {"embedded": 1.1, "random": 1 / 1.5}
"""Of polyray's seconds over TRL's."""
WARM_UP_STEPS = 1
LEARNING_RATE = 1e-6
"""So small that both sides keep the policy that sampled."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = JobParser("benchmark trl", __doc__)
    parser.add_argument("--model", choices=("embedded", "random"), default="embedded", help="what is trained")
    parser.add_argument("--steps", type=int, default=8, help="timed steps of each side (default: 8)")
    parser.add_argument("--groups", type=int, default=16, help="prompts of a step (default: 16)")
    parser.add_argument("--group-size", type=int, default=16, help="completions of a prompt (default: 16)")
    parser.add_argument("--longest", type=int, default=256, help="random: tokens of the longest completion")
    parser.add_argument("--mean-share", type=float, default=0.2, help="random: mean length / longest")
    parser.add_argument("--micro-batch-rows", type=int, default=256, help="on both sides (default: 256)")
    parser.add_argument("--threads", type=int, default=2, help="of torch (default: 2)")
    parser.add_argument("--out", metavar="FILE", help="write the measures as JSON")
    parser.add_argument("--check", action="store_true", help="print what would be measured as JSON and exit")
    options = parser.parse_strictly(argv)
    rows = options.groups * options.group_size
    if options.steps < 1 or not 0 < options.mean_share <= 1 or rows % min(rows, options.micro_batch_rows):
        parser.error(
            f"--steps {options.steps} --mean-share {options.mean_share} --micro-batch-rows "
            f"{options.micro_batch_rows}: at least 1 step, a share in (0, 1], and a divisor of {rows} rows are needed"
        )
    if options.check:
        print(json.dumps({"job": "benchmark trl", **vars(options)}, indent=2))
        return EXIT_OK
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"{', '.join(missing)} not installed; to get TRL beside polyray: {HOW_TO_INSTALL}")
    return conclude(_measures(options), {"machine": machine(), "options": vars(options)}, options.out)


def _measures(options: Any) -> list[Measure]:
    import torch

    torch.set_num_threads(options.threads)
    sides = _Sides(options)
    with contextlib.redirect_stdout(sys.stderr):  # TRL prints its own metrics
        sides.train()
    ours, theirs = sides.seconds["polyray"][WARM_UP_STEPS:], sides.seconds["trl"][WARM_UP_STEPS:]
    tokens = sides.tokens[WARM_UP_STEPS:]
    ratios = tuple(one / other for one, other in zip(ours, theirs, strict=True))
    return [
        Measure(f"learning, polyray / TRL, {options.model} model", ratios, "", LIMITS[options.model]),
        Measure("  polyray", tuple(n / s for n, s in zip(tokens, ours, strict=True)), "completion tokens/s"),
        Measure("  TRL", tuple(n / s for n, s in zip(tokens, theirs, strict=True)), "completion tokens/s"),
        Measure("  mean / longest completion", tuple(sides.mean_shares[WARM_UP_STEPS:])),
    ]


class _Sides:
    """Both learners; TRL's trainer drives, and polyray takes its turn at the end of each of its steps."""

    def __init__(self, options: Any) -> None:
        import numpy as np

        from jobs.benchmark.learner import build_learner

        self._options = options
        self._draw = np.random.default_rng(0)
        self._base = _base(options.model)
        self._learner = build_learner(
            _base(options.model), options.groups, options.group_size, options.micro_batch_rows, LEARNING_RATE
        )
        self._batch: Any = None
        self._aside_s = 0.0
        self._started = 0.0
        self.seconds: dict[str, list[float]] = {"polyray": [], "trl": []}
        self.tokens: list[int] = []
        self.mean_shares: list[float] = []

    def train(self) -> None:
        """Alternates until both have made all their steps."""
        trainer = _trainer(self)
        score = trainer._generate_and_score_completions

        def timed(inputs: Any) -> Any:
            started = time.perf_counter()
            scored = score(inputs)
            self._aside_s += time.perf_counter() - started
            return scored

        trainer._generate_and_score_completions = timed
        trainer.train()

    def begin(self) -> None:
        """TRL's step begins."""
        self._aside_s, self._started = 0.0, time.perf_counter()

    def end(self) -> None:
        """TRL's step has ended: now ours, on the same groups."""
        self.seconds["trl"].append(time.perf_counter() - self._started - self._aside_s)
        started = time.perf_counter()
        self._learner.step(self._batch)
        self.seconds["polyray"].append(time.perf_counter() - started)

    def rollout(self, prompts: Any, trainer: Any) -> dict[str, Any]:
        """What TRL is to train on: the groups of the next batch."""
        self._batch = self._next_batch()
        completions = [item for group in self._batch.groups for item in group.group.completions]
        prompt_ids = [
            group.group.prompt_token_ids.tolist()
            for group in self._batch.groups
            for _ in group.group.completions
        ]
        lengths = [len(item.token_ids) for item in completions]
        self.tokens.append(sum(lengths))
        self.mean_shares.append(sum(lengths) / len(lengths) / max(lengths))
        return {
            "prompt_ids": prompt_ids,
            "completion_ids": [item.token_ids.tolist() for item in completions],
            "logprobs": [item.rollout_logprobs.tolist() for item in completions],
        }

    def rewards(self) -> list[float]:
        """Of the same completions."""
        return [float(value) for group in self._batch.groups for value in group.rewards_G]

    def _next_batch(self) -> Any:
        from polyray.types import TrainingBatch

        first = len(self.tokens) * self._options.groups
        groups = [self._group(first + i) for i in range(self._options.groups)]
        return TrainingBatch(len(self.tokens), tuple(groups), len(groups))

    def _group(self, group_id: int) -> Any:
        import numpy as np

        from polyray.types import Completion, Group, PolicyVersion, Prompt, ScoredGroup

        prompt, tokens = self._sampled(group_id) if self._options.model == "embedded" else self._drawn()
        logprobs = policy_logprobs(self._learner.model, prompt, tokens)
        completions = tuple(
            Completion(np.array(row, np.int32), values, "", "stop", index)
            for index, (row, values) in enumerate(zip(tokens, logprobs, strict=True))
        )
        rewards = (np.arange(len(tokens)) % 2).astype(float)
        group = Group(group_id, Prompt(str(group_id), ""), prompt, completions, PolicyVersion(1, 0, "0" * 64))
        return ScoredGroup(group, rewards, np.where(rewards == 1, 0, -1))

    def _drawn(self) -> tuple[Any, list[list[int]]]:
        import numpy as np

        longest = self._options.longest
        drawn = self._draw.exponential(self._options.mean_share * longest, self._options.group_size)
        lengths = np.clip(drawn.astype(int), 1, longest)
        lengths[0] = longest
        prompt = self._draw.integers(3, RANDOM_SHAPE["vocab_size"], 16).astype(np.int32)
        return prompt, [self._draw.integers(3, RANDOM_SHAPE["vocab_size"], n).tolist() for n in lengths]

    def _sampled(self, group_id: int) -> tuple[Any, list[list[int]]]:
        import numpy as np
        import torch

        from polyray.config.task import HiddenTrapGridSpec
        from polyray.data.chat import encode_prompt
        from polyray.models.embedded import build_tokenizer
        from polyray.tasks import build_task

        task = build_task(HiddenTrapGridSpec())
        tokenizer = build_tokenizer()
        prompt = encode_prompt(tokenizer, task.training_prompt(group_id, 0))
        ids = torch.tensor([prompt] * self._options.group_size)
        torch.manual_seed(group_id)
        with torch.no_grad():
            sampled = self._base.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                do_sample=True,
                top_k=0,
                max_new_tokens=10,
                pad_token_id=0,
            )
        rows = [row[len(prompt) :] for row in sampled.tolist()]
        end = tokenizer.eos_token_id
        return np.array(prompt, np.int32), [row[: row.index(end) + 1] if end in row else row for row in rows]


def _base(name: str) -> Any:
    from pathlib import Path

    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from polyray.config.model import ModelSpec
    from polyray.models.base_files import find_embedded
    from polyray.models.loading import load_base

    if name == "embedded":
        return load_base(find_embedded(Path(ModelSpec().cache_dir)), "float32")
    torch.manual_seed(0)
    return Qwen3ForCausalLM(Qwen3Config(**RANDOM_SHAPE)).eval()


def _trainer(sides: _Sides) -> Any:
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer  # pyright: ignore[reportPrivateImportUsage]

    from polyray.config.model import LoraSpec
    from polyray.models.embedded import build_tokenizer

    class Turns(TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            sides.begin()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            sides.end()

    options, lora = sides._options, LoraSpec()
    rows = options.groups * options.group_size
    micro = min(rows, options.micro_batch_rows)
    steps = WARM_UP_STEPS + options.steps
    config = GRPOConfig(
        output_dir=tempfile.mkdtemp(prefix="polyray-trl-"),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=rows // micro,
        num_generations=options.group_size,
        max_completion_length=options.longest,
        max_steps=steps,
        learning_rate=LEARNING_RATE,
        beta=0.0,
        use_vllm=False,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )

    def rewards(**kwargs: Any) -> list[float]:
        return sides.rewards()

    return GRPOTrainer(
        model=_base(options.model),
        reward_funcs=rewards,  # pyright: ignore[reportArgumentType]  # a function like those of its own examples
        args=config,
        train_dataset=Dataset.from_dict({"prompt": ["1"] * (options.groups * steps)}),
        processing_class=build_tokenizer(),
        peft_config=LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,  # type: ignore[arg-type]  # annotated int, used as a number
            target_modules=list(lora.target_modules),
            task_type="CAUSAL_LM",
        ),
        rollout_func=sides.rollout,
        callbacks=[Turns()],
    )
