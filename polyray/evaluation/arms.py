"""The arms of a comparison: which adapter, asked how, and what it was trained on.

    EvaluateConfig.adapters --resolve_arms--> Arm(name, adapter_dir, prompts) ...

Called by polyray evaluate; few-shot examples are found here, once for all arms that share a template.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from polyray.config.evaluation import EvaluationSpec
from polyray.config.prompts import ArmSpec
from polyray.config.reward import RewardSpec, reward_identity
from polyray.errors import ConfigError
from polyray.evaluation.baselines import asked, few_shot_examples, load_template
from polyray.tasks.base import Task
from polyray.types import Prompt

LEVELS_BELOW_RUN = 3
"""Directories between a run and its deepest adapters, `checkpoints/step-000020/adapter`."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One model of a comparison, ready to be sampled.

    Example:
        Arm(name="few-shot", adapter_dir=None, template="few_shot", asked_P=(Prompt(...),), trained_on=None)
    """

    name: str
    adapter_dir: str | None
    """None: the base model itself."""
    template: str | None
    asked_P: tuple[Prompt, ...]
    """Prompts as the policy reads them, in the order of the evaluated prompts."""
    trained_on: str | None
    """Identity of the reward this adapter was optimised for; None: none that is known."""
    answers: int | None = None
    """Answers that its template asks for in one completion; None: one."""


def resolve_arms(
    specs: Mapping[str, ArmSpec], prompts: Sequence[Prompt], task: Task, seed: int, evaluation: EvaluationSpec
) -> list[Arm]:
    """One Arm per entry, in order.

    Raises ConfigError for a template that is not there, that asks for another number of answers than there are
    samples, or whose answers a selector cannot tell apart; DataError for a leak.
    """
    num_samples, selectors = evaluation.num_samples, (evaluation.selector, *evaluation.more_selectors)
    wordings: dict[str | None, tuple[str | None, tuple[Prompt, ...], int | None]] = {
        None: (None, tuple(prompts), None)
    }
    for spec in specs.values():
        if spec.prompt not in wordings and spec.prompt is not None:
            template = load_template(spec.prompt)
            if template.answers not in (None, num_samples):
                raise ConfigError(
                    f"evaluation.num_samples={num_samples}, but {spec.prompt} asks for answers={template.answers} in "
                    "one completion; make them equal"
                )
            if template.answers is not None and "logprob" in selectors:
                raise ConfigError(
                    f"evaluation.selector=logprob cannot pick from the answers of {spec.prompt}: entries of a list "
                    "have no log-probability; take another selector"
                )
            examples = few_shot_examples(task, template.shots, seed, prompts)
            asked_P = tuple(asked(prompt, template, examples) for prompt in prompts)
            wordings[spec.prompt] = (template.name, asked_P, template.answers)
    arms = []
    for name, spec in specs.items():
        template_name, asked_P, answers = wordings[spec.prompt]
        arms.append(Arm(name, spec.adapter, template_name, asked_P, training_reward(spec.adapter), answers))
    return arms


def training_reward(adapter_dir: str | None) -> str | None:
    """The reward that an adapter's own run optimised, as `reward_name` gives it; None where it is unknown.

    A training run keeps its configuration in its directory, above `adapter/`, `best/`, `versions/` and
    `checkpoints/`; one without an RL objective had no reward.
    """
    if adapter_dir is None:
        return None
    above = Path(adapter_dir).resolve().parents[:LEVELS_BELOW_RUN]
    config_file = next((path for level in above if (path := level / "config.json").is_file()), None)
    if config_file is None:
        return None
    config: dict[str, Any] = json.loads(config_file.read_text(encoding="utf-8"))
    if "algorithm" not in config or "reward" not in config:
        return None
    return reward_name(config["reward"], config.get("task", {}))


def reward_name(reward: Mapping[str, Any], task: Mapping[str, Any]) -> str:
    """A name that two rewards share where they give the same scores: `reward_identity` and the task's type.

    The same verifier on other prompts is the same reward; a salt or a file is not looked at.
    """
    try:  # a configuration of an earlier version may lack settings that have a default now
        spec: Any = TypeAdapter(RewardSpec).validate_python(reward)
    except ValidationError:
        spec = reward
    return f"{json.dumps(reward_identity(spec), sort_keys=True)} on {task.get('type', '?')}"
