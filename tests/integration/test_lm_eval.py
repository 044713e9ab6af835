"""lm-eval against a running generation service: log-probs of continuations, generation, chat.

lm-eval is not a requirement of polyray: `pip install "lm_eval[api]"` into an environment of the test's own.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi import FastAPI

from polyray.learner.embedded import build_tokenizer
from polyray.serving.generation.routes import build_http_app
from polyray.serving.generation.service import GenerationService
from tests.served_app import served
from tests.unit.serving.generation.tiny_service import (
    PROMPT,
    TOKENS,
    adapter_model,
    tiny_config,
    token_book,
)

ABSENT = 'lm-eval is absent: pip install "lm_eval[api]"'
LM_EVAL: Any = pytest.importorskip("lm_eval", reason=ABSENT)
TASK: Any = pytest.importorskip("lm_eval.api.task", reason=ABSENT)
pytest.importorskip("lm_eval.models.openai_completions", reason=ABSENT)

START_TIMEOUT_S = 180
CHOICES = ["RRUU", "U", "LDRU"]
TOKENIZER = build_tokenizer()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("lm-eval")
    rows = [{"question": question, "choices": CHOICES, "answer": 0} for question in (PROMPT, "12|a1>c3=")]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", TOKENS["alice"])
        patch.setenv("HF_DATASETS_CACHE", str(folder / "cache"))
        yield folder


@pytest.fixture(scope="module")
def url(root: Path) -> Iterator[str]:
    @asynccontextmanager
    async def opened() -> AsyncIterator[FastAPI]:
        service = GenerationService(tiny_config(root), token_book())
        await service.start()
        yield build_http_app(service)
        await service.close()

    with served(opened(), START_TIMEOUT_S) as address:
        yield address


def evaluated(root: Path, kind: str, base_url: str, task: dict[str, Any], **options: Any) -> Any:
    """lm-eval's results and samples of one task."""
    config = {
        "task": "own",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(root / "rows.jsonl")}},
        "test_split": "test",
        "doc_to_text": "{{question}}",
        "target_delimiter": "",
        **task,
    }
    arguments = {"model": "first", "base_url": base_url, "tokenizer": str(root / "model"), "max_retries": 1}
    return LM_EVAL.simple_evaluate(
        kind,
        model_args=arguments | options.pop("model_args", {}),
        tasks=[TASK.ConfigurableTask(config=config)],
        bootstrap_iters=0,
        **options,
    )


def expected(prompt: str, choice: str) -> tuple[float, bool]:
    """(log-prob of the choice, whether it is the greedy continuation) by Hugging Face."""
    context, answer = (TOKENIZER.encode(text, add_special_tokens=False) for text in (prompt, choice))
    with torch.no_grad():
        logits = adapter_model(1)(input_ids=torch.tensor([context + answer])).logits
    rows = logits[0, len(context) - 1 : -1].float().log_softmax(-1)
    chosen = rows.gather(1, torch.tensor(answer)[:, None])[:, 0]
    return float(chosen.sum()), bool((rows.argmax(-1) == torch.tensor(answer)).all())


@pytest.mark.parametrize("batch_size", [1, 4])
def test_lm_eval_multiple_choice_gets_the_models_log_probs(root: Path, url: str, batch_size: int) -> None:
    task = {"output_type": "multiple_choice", "doc_to_choice": "choices", "doc_to_target": "answer"}
    found = evaluated(root, "local-completions", url + "v1/completions", task, batch_size=batch_size)
    samples = found["samples"]["own"]
    assert len(samples) == 2
    for sample in samples:
        for choice, (response,) in zip(CHOICES, sample["resps"], strict=True):
            logprob, is_greedy = expected(sample["doc"]["question"], choice)
            assert float(response[0]) == pytest.approx(logprob, abs=1e-3)
            assert str(response[1]) == str(is_greedy)


@pytest.mark.parametrize("kind", ["local-completions", "local-chat-completions"])
def test_lm_eval_generation_stops_at_its_texts(root: Path, url: str, kind: str) -> None:
    task = {
        "output_type": "generate_until",
        "doc_to_target": "{{choices[answer]}}",
        "generation_kwargs": {"until": ["|", "\n"], "max_gen_toks": 12, "do_sample": False, "temperature": 0},
        "metric_list": [{"metric": "exact_match"}],
    }
    route = "v1/chat/completions" if "chat" in kind else "v1/completions"
    found = evaluated(root, kind, url + route, task, apply_chat_template="chat" in kind)
    said = [sample["resps"][0][0] for sample in found["samples"]["own"]]
    assert all(isinstance(text, str) and "|" not in text for text in said) and any(said)
    assert 0.0 <= found["results"]["own"]["exact_match,none"] <= 1.0
