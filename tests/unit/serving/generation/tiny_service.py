"""A generation service on a tiny random model with two adapters, in this process: real vLLM, no Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx

from polyray.config.generation import GenerationServeConfig
from polyray.config.loader import build_config
from polyray.config.model import LoraSpec
from polyray.learner.embedded import CHAT_TEMPLATE, build_tokenizer
from polyray.models.base_files import base_fingerprint
from polyray.models.lora import attach_adapter, save_adapter
from polyray.serving.generation.routes import build_http_app
from polyray.serving.generation.service import GenerationService
from polyray.serving.generation.tokens import Caller, KnownToken, TokenBook
from tests.unit.tiny_policy import build_base, move, save_base

RANK = 3
SHAPE = {"head_dim": 32, "num_hidden_layers": 2}
PROMPT = "37|b1>e4="
CLOSING = "{% if messages[-1]['role'] == 'assistant' %}<pad>{% endif %}"
"""The template of a base model: it closes a turn with a token that is not the end of sequence."""
TOKENS = {"alice": "alice-s3cret", "bob": "bob-s3cret", "root": "root-s3cret"}


def adapter_model(seed: int, base_sha256: str = "b" * 64) -> Any:
    """The base with a random adapter."""
    lora = LoraSpec(rank=RANK, alpha=8)
    model = attach_adapter(build_base(**SHAPE), lora, None, base_sha256=base_sha256, seed=seed)
    move(model, 0.3, seed)
    return model.eval()


def save_adapters(root: Path, model_dir: Path, *seeds: int) -> None:
    """root/adapter-SEED for each."""
    digest = base_fingerprint(model_dir)
    for seed in seeds:
        save_adapter(adapter_model(seed, digest), root / f"adapter-{seed}", {"base_sha256": digest})


def tiny_config(root: Path, **changes: Any) -> GenerationServeConfig:
    """A service over `root`, whose model and adapters 1 and 2 are made where they are missing."""
    model_dir = root / "model"
    if not model_dir.exists():
        save_base(model_dir, **SHAPE)
        tokenizer = build_tokenizer()
        tokenizer.chat_template = CHAT_TEMPLATE + CLOSING
        tokenizer.save_pretrained(model_dir)
        save_adapters(root, model_dir, 1, 2)
    values: dict[str, Any] = {
        "name": "tiny",
        "model": {"path": str(model_dir), "dtype": "float32"},
        "engine": {
            "max_prompt_tokens": 48,
            "max_completion_tokens": 400,
            "max_sequences": 32,
            "max_queued_sequences": 8,
            "kv_cache_mib": 32,
            "health_timeout_s": 10,
        },
        "adapters": [{"path": str(root / "adapter-1"), "name": "first"}],
        "adapter_roots": [str(root)],
        "max_adapters": 3,
        "max_lora_rank": RANK,
        "follow_interval_s": 0.1,
        "database": f"sqlite:///{root}/selections.db",
        "limits": {"max_body_bytes": 20_000, "max_n": 32, "max_logprobs": 3, "request_timeout_s": 30},
        "port": 0,
    }
    return build_config(GenerationServeConfig, {**values, **changes})


def token_book() -> TokenBook:
    """alice and bob are users, root is an admin."""
    from pydantic import SecretStr

    return TokenBook(
        tuple(
            KnownToken.of(Caller(name, "admin" if name == "root" else "user"), SecretStr(token))
            for name, token in TOKENS.items()
        )
    )


def caller(service: GenerationService, name: str | None) -> httpx.AsyncClient:
    """HTTP without a network."""
    headers = {} if name is None else {"Authorization": f"Bearer {TOKENS[name]}"}
    transport = httpx.ASGITransport(build_http_app(service), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://service", headers=headers, timeout=60)
