"""Update for the engines: one adapter, its identity and its probe."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from polyray.errors import WeightSyncError
from polyray.types import PolicyVersion

HARMLESS = frozenset(
    {
        "peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision",
        "inference_mode", "runtime_config", "r", "lora_alpha", "lora_dropout", "use_rslora", "init_lora_weights",
        "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "eva_config", "lora_ga_config",
        "megatron_core", "qalora_group_size", "ensure_weight_tying",
    }
)  # fmt: skip
"""PEFT options that leave an adapter W0 + scale B A for any value, or that are read below.

Any other option that is set is refused, so that an option of a later PEFT is never ignored.
"""
PLAIN_VALUES = (None, False, "none", {}, [])
"""An option with one of these values is not set."""
PLAIN_STARTS = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")
"""`init_lora_weights` that leave the base as it is, like true and false."""


@dataclass(frozen=True, slots=True)
class AdapterShape:
    """Meaning of the factors of an adapter: W = W0 + scale B A.

    Example:
        AdapterShape(rank=16, alpha=32.0, target_modules=("k_proj", "q_proj", "v_proj"))
    """

    rank: int
    alpha: float
    target_modules: tuple[str, ...]
    use_rslora: bool = False

    @property
    def scale(self) -> float:
        """alpha / rank, or alpha / sqrt(rank) with rsLoRA."""
        return self.alpha / (math.sqrt(self.rank) if self.use_rslora else self.rank)

    @classmethod
    def from_peft(cls, config: Mapping[str, object]) -> AdapterShape:
        """Reads a PEFT `adapter_config.json`; WeightSyncError for what cannot be merged as W0 + scale B A."""
        for key, value in config.items():
            if key not in HARMLESS and value not in PLAIN_VALUES:
                raise WeightSyncError(
                    f"the adapter has {key}={value!r}, which plain LoRA (W0 + scale B A) cannot express; merge it "
                    "into its base with PEFT's merge_and_unload and use the result as model.path"
                )
        refuse_changed_base(config)
        if isinstance(config["target_modules"], str):
            raise WeightSyncError(
                f"the adapter has target_modules={config['target_modules']!r}, a pattern; replace it in "
                "adapter_config.json by the list of the modules' names"
            )
        return cls(
            rank=int(config["r"]),  # type: ignore[call-overload]
            alpha=float(config["lora_alpha"]),  # type: ignore[arg-type]
            target_modules=tuple(sorted(config["target_modules"])),  # type: ignore[arg-type]
            use_rslora=bool(config.get("use_rslora", False)),
        )

    def to_peft(self) -> dict[str, object]:
        """A PEFT `adapter_config.json` of plain LoRA factors, which `from_peft` reads."""
        return {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "r": self.rank,
            "lora_alpha": self.alpha,
            "target_modules": list(self.target_modules),
            "use_rslora": self.use_rslora,
            "bias": "none",
            "inference_mode": True,
        }


def refuse_changed_base(config: Mapping[str, object]) -> None:
    """Raise WeightSyncError for an adapter with an initialisation that changed the base (PiSSA, OLoRA, LoftQ)."""
    start = config.get("init_lora_weights", True)
    if isinstance(start, str) and start.lower() not in PLAIN_STARTS:
        raise WeightSyncError(
            f"the adapter has init_lora_weights={start!r}: it belongs to a base that PEFT changed; save it "
            "with path_initial_model_for_weight_conversion, as plain LoRA on the original base"
        )


@dataclass(frozen=True, slots=True)
class Magnified:
    """The probe's log-probs under the same adapter at a larger scale.

    Example:
        Magnified(factor=4096.0, logprobs=np.array([-3.1, -2.], np.float32),
        rounded_anew=np.array([[-3.0, -2.1], [-3.2, -2.1]], np.float32))
    """

    factor: float
    """The adapter's scale relative to the version's own."""
    logprobs: np.ndarray
    """Laid out like `Probe.logprobs`."""
    rounded_anew: np.ndarray
    """[R, N] the same at almost equal scales: how much rounding moves log-probs of a magnified adapter."""


@dataclass(frozen=True, slots=True)
class Probe:
    """Fixed token sequences and the log-probs the learner gives them: what a delivery is proven with.

    Example:
        Probe(sequences=((1, 8, 9), (1, 7, 3)), logprobs=np.array([-.5, -2., -.1, -3.], np.float32),
        previous=None)
    """

    sequences: tuple[tuple[int, ...], ...]
    logprobs: np.ndarray
    """[sum(len - 1)] float32 of this version, sequences one after another, from the second token on."""
    previous: np.ndarray | None
    """The same for what the engine served before; None for the first."""
    base: np.ndarray | None = None
    """The same for the base without an adapter; None where that was not computed, and for the base itself."""
    magnified: Magnified | None = None
    """In 16 bits: what shows a missing or scaled part of a small adapter."""


@dataclass(frozen=True, slots=True)
class PolicyUpdate:
    """One policy version on its way.

    Example:
        PolicyUpdate(policy=PolicyVersion(...), tensors=b"...", shape=AdapterShape(...), probe=Probe(...))
    """

    policy: PolicyVersion
    tensors: bytes
    """safetensors in PEFT's naming; empty for the base model itself."""
    shape: AdapterShape | None
    probe: Probe

    def magnified(self) -> PolicyUpdate | None:
        """The update to load for `Probe.magnified`, as a run of its own; None if there is nothing to magnify."""
        larger, shape = self.probe.magnified, self.shape
        if larger is None or shape is None:
            return None
        sha256 = sha256_of(f"{self.policy.sha256} x {larger.factor}".encode())
        return replace(
            self,
            policy=replace(self.policy, run=f"{self.policy.run}~magnified", sha256=sha256),
            shape=replace(shape, alpha=larger.factor * shape.alpha),
            probe=replace(self.probe, logprobs=larger.logprobs, magnified=None),
        )


def sha256_of(data: bytes) -> str:
    """The identity of adapter bytes."""
    return hashlib.sha256(data).hexdigest()
