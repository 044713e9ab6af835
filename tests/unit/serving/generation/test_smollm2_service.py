"""A real instruct model behind the HTTP routes: chat template, end token and special tokens, against Hugging Face."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
import torch

from polyray.config.generation import GenerationServeConfig
from polyray.config.loader import build_config
from polyray.config.model import LoraSpec, ModelSpec
from polyray.models.base_files import base_fingerprint, local_model_dir
from polyray.models.loading import load_base
from polyray.models.lora import attach_adapter, save_adapter
from polyray.models.tokenizer import load_tokenizer
from polyray.serving.generation.service import GenerationService
from tests.unit.serving.generation.tiny_service import caller, token_book
from tests.unit.tiny_policy import move

pytestmark = pytest.mark.asyncio(loop_scope="module")

MESSAGES = [{"role": "user", "content": "What is the capital of France? Answer with one word."}]
ADAPTER_SIZE = 2e-3
"""Standard deviation of the random adapter's weights."""


@pytest.fixture(scope="module")
def model_dir(smollm2_cache: Path) -> Path:
    found = local_model_dir(ModelSpec(path="smollm2", cache_dir=str(smollm2_cache)))
    assert found is not None
    return found


@pytest.fixture(scope="module")
def adapted(model_dir: Path) -> Any:
    """The base with a random adapter."""
    digest = base_fingerprint(model_dir)
    lora = LoraSpec(rank=4, alpha=8)
    model = attach_adapter(load_base(model_dir, "float32"), lora, None, base_sha256=digest, seed=1)
    move(model, ADAPTER_SIZE, 1)
    return model.eval()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def alice(
    smollm2_cache: Path, model_dir: Path, adapted: Any, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[httpx.AsyncClient]:
    root = tmp_path_factory.mktemp("smollm2-service")
    save_adapter(adapted, root / "adapter", {"base_sha256": base_fingerprint(model_dir)})
    values = {
        "name": "smollm2",
        "model": {"path": "smollm2", "cache_dir": str(smollm2_cache), "dtype": "float32"},
        "engine": {
            "max_prompt_tokens": 64,
            "max_completion_tokens": 16,
            "max_sequences": 8,
            "kv_cache_mib": 64,
        },
        "adapters": [{"path": str(root / "adapter"), "name": "tuned"}],
        "adapter_roots": [str(root)],
        "max_lora_rank": 4,
        "database": f"sqlite:///{root}/selections.db",
        "port": 0,
    }
    built = GenerationService(build_config(GenerationServeConfig, values), token_book())
    await built.start()
    async with caller(built, "alice") as http:
        yield http
    await built.close()


def _greedy(model: Any, model_dir: Path, limit: int) -> tuple[str, int, int]:
    """Hugging Face's (text, prompt tokens, completion tokens with the end token)."""
    tokenizer: Any = load_tokenizer(model_dir)
    encoded = tokenizer.apply_chat_template(
        MESSAGES, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    with torch.no_grad():
        ids = model.generate(**encoded, max_new_tokens=limit, do_sample=False)[0]
    start = encoded["input_ids"].shape[1]
    return tokenizer.decode(ids[start:], skip_special_tokens=True), start, len(ids) - start


@pytest.mark.parametrize("name", ["base", "tuned"])
async def test_chat_of_an_instruct_model_is_hugging_faces(
    alice: httpx.AsyncClient, adapted: Any, model_dir: Path, name: str
) -> None:
    body = {"model": name, "messages": MESSAGES, "temperature": 0, "max_tokens": 16}
    answer = (await alice.post("/v1/chat/completions", json=body)).json()
    with adapted.disable_adapter() if name == "base" else nullcontext():
        text, prompt_tokens, completion_tokens = _greedy(adapted, model_dir, 16)
    (choice,) = answer["choices"]
    assert choice["message"]["content"] == text
    assert answer["usage"]["prompt_tokens"] == prompt_tokens
    assert answer["usage"]["completion_tokens"] == completion_tokens
    assert choice["finish_reason"] == ("length" if completion_tokens == 16 else "stop")
    if name == "base":
        streamed = (await alice.post("/v1/chat/completions", json={**body, "stream": True})).text
        assert choice["finish_reason"] == "stop" and "Paris" in text
        assert "<|im_end|>" not in streamed and "Paris" in streamed


async def test_candidates_of_an_instruct_model_have_no_special_tokens(alice: httpx.AsyncClient) -> None:
    body = {"prompt": "Name a colour.", "k": 4, "max_tokens": 12, "seed": 3, "model": "tuned"}
    answer = (await alice.post("/v1/candidates", json={**body, "selector": "logprob"})).json()
    texts = [each["text"] for each in answer["candidates"]]
    assert len(texts) == 4 and len(set(texts)) > 1
    assert not any("<|" in text for text in texts)
    assert answer["selected_index"] in range(4)
