"""Judges against vLLM's own server, over its OpenAI and its Anthropic route.

The judge of the first tests is a random model whose tokens are bytes: with a JSON schema its answers are valid and
mean nothing. The embedded model has no room for a question, which is the other test.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from polyray.config.judge import JudgeSpec
from polyray.config.loader import build_config
from polyray.errors import JudgeError
from polyray.models.base_files import find_embedded
from polyray.rollout.vllm_engine import ENVIRONMENT, IN_THIS_PROCESS
from polyray.shelf.judge import (
    Candidate,
    ClusterItem,
    JudgeQuality,
    PairItem,
    RubricItem,
    summarise,
)
from tests.unit.shelf.judge.judge_server import judge_stream

START_TIMEOUT_S = 240
ROUTES = {"openai": "/v1", "anthropic": ""}
STRUCTURED = '{"backend": "xgrammar", "disable_any_whitespace": true}'
"""A random model would fill its answers with whitespace."""


def build_byte_model(directory: Path) -> None:
    """Save a random model of one layer with a token per byte."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    tokens = ["<pad>", "<bos>", "<eos>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    backend = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    )
    tokenizer.chat_template = (
        "{{ bos_token }}{% for message in messages %}"
        "{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Qwen3ForCausalLM(
            Qwen3Config(
                vocab_size=len(tokens), hidden_size=64, num_hidden_layers=1, num_attention_heads=2,
                num_key_value_heads=2, head_dim=32, intermediate_size=64, max_position_embeddings=4096,
                tie_word_embeddings=True, pad_token_id=0, bos_token_id=1, eos_token_id=2,
            )
        )  # fmt: skip
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


@contextmanager
def vllm_server(model_dir: Path, max_model_len: int, log: Path) -> Iterator[str]:
    """Address of `vllm serve` on the CPU, killed at the end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments: dict[str, Any] = {
        "model": model_dir, "served-model-name": "judge", "host": "127.0.0.1", "port": port, "dtype": "float32",
        "max-model-len": max_model_len, "max-num-seqs": 8, "kv-cache-memory-bytes": 64 * 2**20,
        "generation-config": "vllm", "structured-outputs-config": STRUCTURED,
        "distributed-executor-backend": "uni",
    }  # fmt: skip
    options = [part for name, value in arguments.items() for part in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--enforce-eager", *options]
    settings = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env={
                **os.environ,
                **ENVIRONMENT,
                **IN_THIS_PROCESS,
                **settings,
                "VLLM_WORKER_MULTIPROC_METHOD": "fork",
            },
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        address = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + START_TIMEOUT_S
        while not _healthy(address):
            assert process.poll() is None, f"vLLM ended: {log.read_text()[-3000:]}"
            assert time.monotonic() < deadline, f"vLLM is not ready: {log.read_text()[-3000:]}"
            time.sleep(0.2)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _healthy(address: str) -> bool:
    try:
        return httpx.get(f"{address}/health", timeout=5).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


@pytest.fixture(scope="module")
def byte_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of the random byte model."""
    directory = tmp_path_factory.mktemp("byte-model")
    build_byte_model(directory)
    with vllm_server(directory, 4096, directory / "log") as address:
        yield address


def spec(address: str, provider: str, **changes: Any) -> JudgeSpec:
    values = {
        "provider": provider, "base_url": address + ROUTES[provider], "model": "judge", "temperature": 1.0,
        "max_tokens": 120, "explain": False, "criteria": ["relevance", "coherence"], "max_unjudged_share": 1.0,
        "timeout_s": 120,
    }  # fmt: skip
    return build_config(JudgeSpec, values | changes)


def rubric_item(number: int, text: str) -> RubricItem:
    return RubricItem(f"r{number}", f"t{number}", "Write.", f"t{number}", Candidate(text, "x", number))


@pytest.mark.slow  # a vLLM server of its own starts
@pytest.mark.parametrize("provider", list(ROUTES))
def test_all_modes_over_the_wire(provider: str, byte_server: str, tmp_path: Path) -> None:
    """Valid answers, token counts, and position bias of a random model."""
    judge = spec(byte_server, provider)
    pairs = [
        PairItem(f"p{n}", f"t{n}", "Write.", f"t{n}", Candidate(f"one {n}", "x"), Candidate(f"two {n}", "y"))
        for n in range(4)
    ]
    rows = list(judge_stream(pairs, judge, "pairwise", tmp_path / "a.jsonl"))
    assert [row.status for row in rows] == ["judged"] * 4
    assert {side for row in rows for side in row.result["orders"]} <= {"a", "b", "tie"}
    # A token is a byte: both orders of a pair have the same length, and so have the answers but for the verdicts.
    assert all(row.usage.requests == 2 and row.usage.input_tokens % 2 == 0 for row in rows)
    shortest, longest = (
        len(f'{{"relevance":"{v}","coherence":"{v}","overall":"{v}"}}') for v in ("A", "tie")
    )
    assert all(2 * shortest <= row.usage.output_tokens - 2 <= 2 * longest for row in rows)
    assert summarise(rows)["position_bias"]["n_pairs"] == 4

    scored = list(judge_stream([rubric_item(0, "one")], judge, "rubric", tmp_path / "a.jsonl"))
    assert all(score in range(1, 6) for score in scored[0].result["scores"].values())
    members = tuple(Candidate(f"text {n}", "x", n) for n in range(3))
    (group,) = judge_stream(
        [ClusterItem("c", "t", "p", "t", members)], judge, "cluster", tmp_path / "a.jsonl"
    )
    assert len(group.result["classes"]) == 3

    again = list(judge_stream(pairs, judge, "pairwise", tmp_path / "a.jsonl"))
    assert again == rows, "a random model at temperature 1 gives the same verdicts only from the cache"


@pytest.mark.slow  # the same server
@pytest.mark.parametrize("provider", list(ROUTES))
def test_refused_and_invalid_answers_are_unjudged(provider: str, byte_server: str, tmp_path: Path) -> None:
    items = [rubric_item(0, "one"), rubric_item(1, "x" * 5000)]
    good, long = judge_stream(items, spec(byte_server, provider), "rubric", tmp_path / "a.jsonl")
    assert good.judged
    assert str(long.reason).startswith("refused: status 400: ")
    assert "maximum context length is 4096 tokens" in str(long.reason)

    plain = spec(byte_server, provider, structured_output="text", max_tokens=20, max_retries=1)
    (nonsense,) = judge_stream(items[:1], plain, "rubric", tmp_path / "a.jsonl")
    assert str(nonsense.reason).startswith("invalid answer in 2 ")
    assert nonsense.usage.requests == 2
    with JudgeQuality(plain, tmp_path / "a.jsonl") as quality:
        assert quality.score_many([("Write.", "one")]) == [None]

    with pytest.raises(JudgeError, match=r"judge\.model='gone'"):
        list(judge_stream(items, spec(byte_server, provider, model="gone"), "rubric", tmp_path / "a.jsonl"))


@pytest.mark.slow
def test_the_embedded_model_as_a_judge_gives_no_score(model_cache: Path, tmp_path: Path) -> None:
    """256 positions are too few: every item is unjudged, never zero."""
    model_dir = shutil.copytree(find_embedded(model_cache), tmp_path / "model")
    # The embedded tokenizer refuses characters it does not know, with which vLLM's server does not even start.
    tokenizer = json.loads((model_dir / "tokenizer.json").read_text())
    tokenizer["model"]["unk_token"] = "<pad>"
    (model_dir / "tokenizer.json").write_text(json.dumps(tokenizer))
    items = [rubric_item(number, f"a{number}") for number in range(3)]
    with vllm_server(model_dir, 256, tmp_path / "log") as address:
        for provider in ROUTES:
            judge, cache = spec(address, provider, max_tokens=20), tmp_path / f"{provider}.jsonl"
            rows = list(judge_stream(items, judge, "rubric", cache))
            assert [(row.status, row.result) for row in rows] == [("unjudged", {})] * 3
            assert all("maximum context length is 256 tokens" in str(row.reason) for row in rows)
            strict = spec(address, provider, max_tokens=20, max_unjudged_share=0.5)
            with pytest.raises(JudgeError, match="3 of 3 items"):
                list(judge_stream(items, strict, "rubric", cache))
