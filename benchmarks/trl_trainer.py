"""TRL's GRPOTrainer as the comparison uses it: the LoRA, dtype and batch of polyray's side; it drives, and says when
a step of it begins and ends."""

from __future__ import annotations

import importlib.util
import tempfile
from argparse import Namespace
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from polyray.errors import ConfigError

NEEDED = ("trl", "datasets", "accelerate")
HOW_TO_INSTALL = (
    "pip install --no-deps --target DIR 'trl==1.16.*' accelerate datasets, and set PYTHONPATH=DIR"
)
WARM_UP_STEPS = 1
LEARNING_RATE = 1e-6
"""Learning rate so small that both sides keep the policy that sampled."""


class Turns(Protocol):
    """Callbacks around TRL's steps."""

    def begin(self) -> None:
        """A step of TRL begins."""
        ...

    def end(self) -> None:
        """Note the end of a step of TRL: it is polyray's turn."""
        ...


def require_trl() -> None:
    """Raises ConfigError where TRL is not installed."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"{', '.join(missing)} not installed; to get TRL beside polyray: {HOW_TO_INSTALL}")


def build_trainer(
    options: Namespace,
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Any],
    rewards: Callable[..., list[float]],
    turns: Turns,
) -> Any:
    """A trainer of a fresh LoRA on `model`, for as many steps as there are prompts.

    TRL samples completions with transformers' `generate`.
    """
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl import GRPOTrainer  # pyright: ignore[reportPrivateImportUsage]

    from polyray.config.model import LoraSpec

    class Callback(TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            turns.begin()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            turns.end()

    lora = LoraSpec()
    return GRPOTrainer(
        model=model,
        reward_funcs=rewards,  # pyright: ignore[reportArgumentType]  # a function like those of its own examples
        args=_arguments(options, len(prompts) // options.groups),
        train_dataset=Dataset.from_dict({"prompt": list(prompts)}),
        processing_class=tokenizer,
        peft_config=LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,  # type: ignore[arg-type]  # annotated int, used as a number
            target_modules=list(lora.target_modules),
            task_type="CAUSAL_LM",
        ),
        callbacks=[Callback()],
    )


def _arguments(options: Namespace, steps: int) -> Any:
    from trl import GRPOConfig  # pyright: ignore[reportPrivateImportUsage]

    rows = options.groups * options.group_size
    micro = min(rows, options.micro_batch_rows)
    return GRPOConfig(
        output_dir=tempfile.mkdtemp(prefix="polyray-trl-"),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=rows // micro,
        num_generations=options.group_size,
        max_completion_length=options.longest,
        max_steps=steps,
        learning_rate=LEARNING_RATE,
        temperature=1.0,
        beta=0.0,
        shuffle_dataset=False,
        use_vllm=False,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
