"""A saved engagement model: loading it with every check, and scoring. training.py trains one.

    config.json        encoder, features, temperature, the reference that scores are relative to
    head.safetensors   the head's tensors
    encoder/           the encoder, where it was fine-tuned
    card.json          ModelCard with `files`, the sha256 of all of the above; README.md for people

The head is computed in float64 on the CPU in blocks of a fixed number of rows, and the encoder in exact batches: on
the CPU a score has the same bits beside any other texts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, ValidationError
from scipy.special import expit

from polyray.config.base import StrictModel, as_json
from polyray.config.reward_model import FeatureName
from polyray.errors import ConfigError, DataError
from polyray.models.embedder import PACKAGED, Embedder, shared_embedder
from polyray.runs.atomic import atomic_directory, atomic_write_json
from polyray.shelf.preferences.reward_model.card import ModelCard, card_as_text
from polyray.shelf.preferences.reward_model.features import BLOCKS, explicit_features, text_features

CONFIG, HEAD, CARD, README, ENCODER = "config.json", "head.safetensors", "card.json", "README.md", "encoder"
FORMAT = 1
MAX_REFERENCE = 256
BLOCK_ROWS = 32
"""Rows of one product with the head's weights: always as many, so that the same kernel adds up every row."""


class ModelConfig(StrictModel):
    """config.json: everything that a score depends on beside the tensors.

    Example:
        ModelConfig(encoder="packaged", encoder_sha256="ab...", fine_tuned=False, temperature=0.7, reference=(0.1,))
    """

    format: int = FORMAT
    encoder: str
    encoder_sha256: str
    fine_tuned: bool
    features: tuple[FeatureName, ...] = ()
    temperature: float = Field(gt=0, allow_inf_nan=False)
    reference: tuple[float, ...] = Field(min_length=1, max_length=MAX_REFERENCE)
    """Quantiles of the raw scores of what people wrote, after division by the temperature."""


class EngagementModel:
    """Raw scores and scores of (prompt, completion). Thread-safe."""

    def __init__(
        self, config: ModelConfig, tensors: Mapping[str, np.ndarray], card: ModelCard, embedder: Embedder
    ) -> None:
        self.config, self.card, self.embedder = config, card, embedder
        self.version = card.version
        self._head = {name: np.asarray(value, np.float64) for name, value in tensors.items()}
        self._reference_J = np.array(config.reference)

    @classmethod
    def load(cls, path: Path, device: str = "cpu") -> EngagementModel:
        """From a model directory, its encoder onto `device`. Raises ConfigError where there is none, or its encoder
        is not the one it was trained on, and DataError where a file is damaged."""
        path = Path(path).expanduser()
        if not (path / CONFIG).is_file() or not (path / CARD).is_file():
            raise ConfigError(
                f"{path.absolute()} is not an engagement model: {CONFIG} or {CARD} is missing; make one with "
                "polyray train_reward, or correct the path"
            )
        card = _checked_card(path)
        config = _parsed(ModelConfig, path / CONFIG)
        if config.format != FORMAT:
            raise DataError(
                f"{path}: format {config.format} is unknown here (known: {FORMAT}); update polyray"
            )
        if config.fine_tuned:
            embedder = Embedder(str(path / ENCODER), device=device)
        else:
            embedder = shared_embedder(config.encoder, device)
            if embedder.sha256 != config.encoder_sha256:
                raise ConfigError(
                    f"{path}: encoder {config.encoder!r} has sha256 {embedder.sha256[:12]} here, the model was "
                    f"trained on {config.encoder_sha256[:12]}; install that one"
                )
        return cls(config, _checked_head(path, config, embedder.dimension), card, embedder)

    def raw(self, prompts: Sequence[str], completions: Sequence[str]) -> np.ndarray:
        """[N] float64 log-odds: sigmoid(raw(p, a) - raw(p, b)) is the probability that people prefer a to b.

        Raises ValueError where there are not as many prompts as completions.
        """
        if len(prompts) != len(completions):
            raise ValueError(f"{len(prompts)} prompts for {len(completions)} completions; give one each")
        if not completions:
            return np.zeros(0)
        vectors = self.embedder.encode([*prompts, *completions]).astype(np.float64)
        explicit = explicit_features(self.config.features, completions).astype(np.float64)
        features = text_features(vectors[: len(prompts)], vectors[len(prompts) :], explicit, np.concatenate)
        return self._apply_head(features) / self.config.temperature

    def scores(self, prompts: Sequence[str], completions: Sequence[str]) -> np.ndarray:
        """[N] in (0, 1): the probability of beating a text that people wrote, see `as_scores`."""
        return self.as_scores(self.raw(prompts, completions))

    def as_scores(self, raw_N: np.ndarray) -> np.ndarray:
        """[N] mean over the reference j of sigmoid(raw - raw_j): strictly increasing, until float64 cannot tell
        (some 30 above or below all of the reference)."""
        return np.array([expit(value - self._reference_J).mean() for value in raw_N], dtype=np.float64)

    def _apply_head(self, features_NF: np.ndarray) -> np.ndarray:
        rows = len(features_NF)
        raw = np.empty(rows)
        head = self._head
        block = np.zeros((BLOCK_ROWS, features_NF.shape[1]))
        for start in range(0, rows, BLOCK_ROWS):
            part = features_NF[start : start + BLOCK_ROWS]
            block[: len(part)] = (part - head["mean"]) / head["std"]
            x = block
            if "hidden.weight" in head:
                x = np.maximum(x @ head["hidden.weight"].T + head["hidden.bias"], 0.0)
            # Row by row: a product with a single column is another kernel again.
            raw[start : start + len(part)] = [
                float((row * head["output.weight"][0]).sum()) for row in x[: len(part)]
            ]
        return raw + head["output.bias"][0]


def quantile_reference(raw_N: np.ndarray) -> tuple[tuple[float, ...], float]:
    """(the reference, its greatest error): all raw scores, or MAX_REFERENCE of their mid-quantiles.

    With M quantiles at (m - 1/2) / M the mean of an increasing function with values in [0, 1] is off by at most
    1 / M; the error given is measured, on a grid over the scores and 5 beyond them.
    """
    ordered = np.sort(np.asarray(raw_N, np.float64))
    if ordered.size <= MAX_REFERENCE:
        return tuple(ordered.tolist()), 0.0
    shares = (np.arange(MAX_REFERENCE) + 0.5) / MAX_REFERENCE
    reference = np.quantile(ordered, shares)
    grid = np.linspace(ordered[0] - 5, ordered[-1] + 5, 512)
    error = max(abs(float(expit(r - reference).mean() - expit(r - ordered).mean())) for r in grid)
    return tuple(reference.tolist()), error


def save_model(
    path: Path, config: ModelConfig, tensors: Mapping[str, np.ndarray], card: ModelCard, encoder: Any | None
) -> str:
    """Writes a model directory, complete or not at all; returns the version, which replaces that of `card`.

    `encoder` is the fine-tuned SentenceTransformer, or None.
    """
    from safetensors.numpy import save_file

    with atomic_directory(path) as directory:
        if encoder is not None:
            encoder.save_pretrained(str(directory / ENCODER), create_model_card=False)
        atomic_write_json(directory / CONFIG, as_json(config))
        save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, directory / HEAD)
        files = _hashes(directory)
        card = card.model_copy(update={"version": _version(files)})
        atomic_write_json(directory / CARD, {**as_json(card), "files": files})
        (directory / README).write_text(card_as_text(card), encoding="utf-8")
    return card.version


def read_card(path: Path) -> ModelCard:
    """The card of a model directory, without loading the model. Raises ConfigError, DataError."""
    path = Path(path).expanduser()
    if not (path / CARD).is_file():
        raise ConfigError(
            f"{path.absolute()} is not an engagement model: {CARD} is missing; correct the path"
        )
    return _card_and_files(path)[0]


def licence_of(encoder: str, given: str | None) -> str:
    """Licence for the card."""
    return given or ("Apache-2.0" if encoder == PACKAGED else "not stated: see the encoder's own card")


def _checked_card(path: Path) -> ModelCard:
    card, files = _card_and_files(path)
    found = _hashes(path)
    if found != files or _version(files) != card.version:
        wrong = sorted(name for name in {*found, *files} if found.get(name) != files.get(name)) or [CARD]
        raise DataError(
            f"{path}: {wrong[0]} is not as it was saved (sha256 differs); copy or train the model again"
        )
    return card


def _card_and_files(path: Path) -> tuple[ModelCard, dict[str, str]]:
    values = _json(path / CARD)
    files = values.pop("files", {})
    return _validated(ModelCard, values, path / CARD), files


def _checked_head(path: Path, config: ModelConfig, dimension: int) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        tensors = load_file(path / HEAD)
    except SafetensorError as error:
        raise DataError(f"{path / HEAD}: {error}; copy or train the model again") from None
    num_features = BLOCKS * dimension + len(config.features)
    width = len(tensors["hidden.bias"]) if "hidden.bias" in tensors else 0
    expected = {
        "mean": (num_features,),
        "std": (num_features,),
        "output.weight": (1, width or num_features),
        "output.bias": (1,),
        **({"hidden.weight": (width, num_features), "hidden.bias": (width,)} if width else {}),
    }
    shapes = {name: value.shape for name, value in tensors.items()}
    if shapes != expected:
        raise DataError(f"{path / HEAD}: tensors {shapes}, expected {expected}; train the model again")
    broken = [name for name, value in tensors.items() if not np.isfinite(value).all()]
    if broken or (tensors["std"] <= 0).any():
        raise DataError(
            f"{path / HEAD}: {', '.join(broken) or 'std'} has values that no model has; train it again"
        )
    return tensors


def _parsed(model: type[ModelConfig], file: Path) -> ModelConfig:
    return _validated(model, _json(file), file)


def _validated(model: Any, values: Any, file: Path) -> Any:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        item = error.errors()[0]
        where = ".".join(map(str, item["loc"]))
        raise DataError(f"{file}: {where}: {item['msg']}; copy or train the model again") from None


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{file}: not valid JSON ({error}); copy or train the model again") from None


def _hashes(directory: Path) -> dict[str, str]:
    """sha256 of all files on which a score depends."""
    files = [directory / CONFIG, directory / HEAD, *sorted((directory / ENCODER).rglob("*"))]
    return {
        path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.is_file()
    }


def _version(files: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(sorted(files.items())).encode()).hexdigest()
