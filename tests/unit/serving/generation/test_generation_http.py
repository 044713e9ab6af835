"""Answers over HTTP on real vLLM: values against Hugging Face, OpenAI's client, refusals."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import httpx2
import openai
import pytest
import pytest_asyncio
import torch
from openai.types import Completion
from openai.types.chat import ChatCompletion

from polyray.data.chat import encode_prompt
from polyray.data.selections.errors import StoreFull
from polyray.learner.embedded import build_tokenizer
from polyray.models.lora import save_adapter
from polyray.serving import gauges
from polyray.serving.generation.routes import build_http_app
from polyray.serving.generation.service import GenerationService
from polyray.types import Prompt
from tests.unit.serving.generation.operation_fixtures import SCOPE
from tests.unit.serving.generation.tiny_service import (
    PROMPT,
    SHAPE,
    TOKENS,
    adapter_model,
    caller,
    tiny_config,
    token_book,
)
from tests.unit.tiny_policy import build_base

pytestmark = pytest.mark.asyncio(loop_scope="module")

TOKENIZER = build_tokenizer()
MESSAGES = [{"role": "user", "content": PROMPT}]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[GenerationService]:
    root = tmp_path_factory.mktemp("service")
    built = GenerationService(tiny_config(root), token_book())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gauges, "SET_EVERY_S", 0.05)
        await built.start()
        yield built
        await built.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def alice(service: GenerationService) -> AsyncIterator[httpx.AsyncClient]:
    async with caller(service, "alice") as http:
        yield http


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def root(service: GenerationService) -> AsyncIterator[httpx.AsyncClient]:
    async with caller(service, "root") as http:
        yield http


async def post(http: httpx.AsyncClient, route: str, status: int = 200, **body: Any) -> dict[str, Any]:
    answer = await http.post(route, json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


async def refusal(http: httpx.AsyncClient, route: str, status: int, **body: Any) -> tuple[str, str | None]:
    """(message, param) of a refused request."""
    error = (await post(http, route, status, **body))["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error["message"], error["param"]


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def events(text: str) -> list[str]:
    """The data of server-sent events."""
    return [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]


def expected_logprobs(model: Any, prompt: list[int], tokens: list[int]) -> list[float]:
    ids = torch.tensor([[*prompt, *tokens]])
    with torch.no_grad():
        rows = model(input_ids=ids).logits[0, len(prompt) - 1 : -1].float().log_softmax(-1)
    return rows.gather(1, torch.tensor(tokens)[:, None])[:, 0].tolist()


def token_ids(tokens: list[str]) -> list[int]:
    return [int(TOKENIZER.convert_tokens_to_ids(token)) for token in tokens]  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "seed"), [("base", None), ("first", 1)])
async def test_completions_have_the_models_log_probs(
    alice: httpx.AsyncClient, name: str, seed: int | None
) -> None:
    body = {"model": name, "prompt": PROMPT, "n": 2, "seed": 3, "max_tokens": 12, "logprobs": 2}
    answer = await post(alice, "/v1/completions", **body)
    model = build_base(**SHAPE) if seed is None else adapter_model(seed)
    prompt = encode_prompt(TOKENIZER, Prompt("", PROMPT))
    assert answer["object"] == "text_completion" and answer["model"] == name
    assert [choice["index"] for choice in answer["choices"]] == [0, 1]
    total = 0
    for choice in answer["choices"]:
        logprobs = choice["logprobs"]
        tokens = token_ids(logprobs["tokens"])
        total += len(tokens)
        assert logprobs["token_logprobs"] == pytest.approx(expected_logprobs(model, prompt, tokens), abs=1e-4)
        for token, row in zip(logprobs["tokens"], logprobs["top_logprobs"], strict=True):
            assert token in row and len(row) in (2, 3), "with the sampled one, as OpenAI answers"
        assert "".join(logprobs["tokens"]).removesuffix("<eos>") == choice["text"]
    assert answer["usage"] == usage(len(prompt), total)


@pytest.mark.parametrize("max_tokens", [0, 1, 5])
async def test_completions_echo_has_the_prompts_log_probs(alice: httpx.AsyncClient, max_tokens: int) -> None:
    """The request of lm-eval's local-completions: token ids of several prompts, greedy, one likeliest token."""
    prompts = [encode_prompt(TOKENIZER, Prompt("", text)) for text in (PROMPT, "12|a1>c3=")]
    body = {"model": "first", "prompt": prompts, "max_tokens": max_tokens, "temperature": 0, "seed": 1}
    answer = await post(alice, "/v1/completions", **body, logprobs=1, echo=True)
    model = adapter_model(1)
    sampled = 0
    for prompt, choice in zip(prompts, answer["choices"], strict=True):
        logprobs = choice["logprobs"]
        tokens = token_ids(logprobs["tokens"])
        assert tokens[: len(prompt)] == prompt and len(tokens) <= len(prompt) + max_tokens
        assert logprobs["token_logprobs"][0] is logprobs["top_logprobs"][0] is None
        expected = expected_logprobs(model, tokens[:1], tokens[1:])
        assert logprobs["token_logprobs"][1:] == pytest.approx(expected, abs=1e-4)
        assert choice["text"] == "".join(logprobs["tokens"]).removesuffix("<eos>")
        with torch.no_grad():
            best = model(input_ids=torch.tensor([tokens])).logits[0, :-1].argmax(-1).tolist()
        assert [next(iter(row)) for row in logprobs["top_logprobs"][1:]] == [
            TOKENIZER.decode([token]) for token in best
        ]
        sampled += len(tokens) - len(prompt)
    assert answer["usage"]["completion_tokens"] == sampled


async def test_completions_repeat_by_seed_and_by_prompt(alice: httpx.AsyncClient) -> None:
    body = {"model": "first", "prompt": PROMPT, "n": 4, "seed": 11, "max_tokens": 16}
    first, again = [await post(alice, "/v1/completions", **body) for _ in range(2)]
    texts = [choice["text"] for choice in first["choices"]]
    assert texts == [choice["text"] for choice in again["choices"]] and len(set(texts)) > 1
    other = await post(alice, "/v1/completions", **{**body, "seed": 12})
    assert texts != [choice["text"] for choice in other["choices"]]
    echoed = await post(alice, "/v1/completions", **body, echo=True)
    assert [choice["text"] for choice in echoed["choices"]] == [PROMPT + text for text in texts]

    common = {"model": "first", "max_tokens": 8, "temperature": 0}
    second = "12|a1>c3="
    ids = encode_prompt(TOKENIZER, Prompt("", second))
    both = await post(alice, "/v1/completions", prompt=[PROMPT, second], **common)
    one = await post(alice, "/v1/completions", prompt=ids, **common)
    assert both["choices"][1]["text"] == one["choices"][0]["text"]
    assert both["usage"]["prompt_tokens"] == len(ids) + len(encode_prompt(TOKENIZER, Prompt("", PROMPT)))


async def test_completions_stream_adds_up_to_the_whole_answer(alice: httpx.AsyncClient) -> None:
    body = {"model": "first", "prompt": PROMPT, "n": 2, "seed": 5, "max_tokens": 12, "logprobs": 0}
    whole = await post(alice, "/v1/completions", **body)
    options = {"stream": True, "stream_options": {"include_usage": True}}
    answer = await alice.post("/v1/completions", json={**body, **options})
    assert answer.headers["content-type"].startswith("text/event-stream")
    *chunks, last = events(answer.text)
    assert last == "[DONE]"
    parsed = [json.loads(chunk) for chunk in chunks]
    assert parsed[-1]["usage"] == whole["usage"] and parsed[-1]["choices"] == []
    texts, offsets = ["", ""], [[], []]
    for chunk in parsed[:-1]:
        (choice,) = chunk["choices"]
        texts[choice["index"]] += choice["text"]
        offsets[choice["index"]] += choice["logprobs"]["text_offset"]
    assert texts == [choice["text"] for choice in whole["choices"]]
    assert offsets == [choice["logprobs"]["text_offset"] for choice in whole["choices"]]


async def test_chat_has_the_log_probs_of_its_template(alice: httpx.AsyncClient) -> None:
    body = {"model": "first", "messages": MESSAGES, "seed": 2, "max_completion_tokens": 10}
    answer = await post(alice, "/v1/chat/completions", logprobs=True, top_logprobs=1, **body)
    content = answer["choices"][0]["logprobs"]["content"]
    prompt = encode_prompt(TOKENIZER, Prompt("", PROMPT, messages=tuple(MESSAGES)))
    expected = expected_logprobs(adapter_model(1), prompt, token_ids([entry["token"] for entry in content]))
    assert [entry["logprob"] for entry in content] == pytest.approx(expected, abs=1e-4)


async def test_chat_ends_with_the_first_token_that_closes_a_turn(alice: httpx.AsyncClient) -> None:
    """The same prompt as token ids goes on after <pad>, which only the chat template gives a meaning."""
    asked = {"model": "first", "seed": 2, "max_tokens": 60}
    ids = encode_prompt(TOKENIZER, Prompt("", PROMPT, messages=tuple(MESSAGES)))
    free = await post(alice, "/v1/completions", prompt=ids, n=24, logprobs=0, **asked)
    rows = [choice["logprobs"]["tokens"] for choice in free["choices"]]
    assert all("<eos>" not in row[:-1] for row in rows) and any("<pad>" in row[:-1] for row in rows)
    expected = [row[: row.index("<pad>") + 1] if "<pad>" in row else row for row in rows]
    chat = await post(alice, "/v1/chat/completions", messages=MESSAGES, n=24, logprobs=True, **asked)
    choices = chat["choices"]
    assert [[entry["token"] for entry in choice["logprobs"]["content"]] for choice in choices] == expected
    ends = {"<pad>": "stop", "<eos>": "stop"}
    assert [choice["finish_reason"] for choice in choices] == [
        ends.get(row[-1], "length") for row in expected
    ]
    assert {"<pad>", "<eos>"} <= {row[-1] for row in expected}
    texts = ["".join(token for token in row if token not in {*ends, "<bos>"}) for row in expected]
    assert [choice["message"]["content"] for choice in choices] == texts
    candidates = await post(alice, "/v1/candidates", messages=MESSAGES, k=24, **asked)
    shown = candidates["candidates"]
    assert len(shown) > 10
    assert [each["text"] for each in shown] == [texts[each["sample"]] for each in shown]


async def test_completions_end_before_a_stop_text(alice: httpx.AsyncClient) -> None:
    body = {"model": "base", "prompt": PROMPT, "seed": 1, "max_tokens": 60}
    text = (await post(alice, "/v1/completions", **body))["choices"][0]["text"]
    stop = text[4:6]
    (choice,) = (await post(alice, "/v1/completions", **body, stop=[stop]))["choices"]
    assert (choice["text"], choice["finish_reason"]) == (text[: text.index(stop)], "stop")


NEUTRAL: dict[str, Any] = {
    "n": 1, "frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {}, "user": "someone", "temperature": 1,
    "top_p": 1, "stop": None, "seed": 2,
}  # fmt: skip
OF_COMPLETIONS = {"best_of": 1, "echo": False, "suffix": "", "logprobs": None}
OF_CHAT: dict[str, Any] = {
    "function_call": "none", "functions": [], "logprobs": False, "top_logprobs": 0, "metadata": {}, "store": False,
    "modalities": ["text"], "parallel_tool_calls": True, "prompt_cache_key": "key", "reasoning_effort": "none",
    "response_format": {"type": "text"}, "safety_identifier": "someone", "service_tier": "auto", "tools": [],
    "tool_choice": "none", "verbosity": "medium",
}  # fmt: skip
OF_VLLM = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}


async def test_openai_client_reads_answers_streams_and_conversations(service: GenerationService) -> None:
    transport = httpx2.ASGITransport(build_http_app(service))
    async with openai.AsyncOpenAI(
        base_url="http://service/v1",
        api_key=TOKENS["alice"],
        http_client=httpx2.AsyncClient(transport=transport),
    ) as client:
        assert [model.id async for model in client.models.list()] == ["base", "first"]
        asked: dict[str, Any] = {"model": "first", "prompt": PROMPT, "max_tokens": 8, "seed": 2}
        plain = await client.completions.create(**asked)
        Completion.model_validate(plain.model_dump(), strict=True)
        neutral = await client.completions.create(
            **{**asked, **NEUTRAL, **OF_COMPLETIONS}, extra_body=OF_VLLM
        )
        assert neutral.choices == plain.choices and neutral.usage == plain.usage
        stream = await client.completions.create(**asked, stream=True, stream_options={"include_usage": True})
        chunks = [chunk async for chunk in stream]
        said = "".join(choice.text for chunk in chunks for choice in chunk.choices)
        assert (said, chunks[-1].usage) == (plain.choices[0].text, plain.usage)

        messages: list[Any] = [{"role": "developer", "content": "1"}, *MESSAGES]
        chat: dict[str, Any] = {"model": "first", "max_completion_tokens": 8, "seed": 2}
        answer = await client.chat.completions.create(messages=messages, **chat)
        ChatCompletion.model_validate(answer.model_dump(), strict=True)
        in_parts = [
            {"role": "system", "content": "1"},
            {
                "role": "user",
                "content": [{"type": "text", "text": part} for part in (PROMPT[:3], PROMPT[3:])],
            },
        ]
        neutral_chat = await client.chat.completions.create(
            messages=in_parts, **{**NEUTRAL, **OF_CHAT, **chat}, extra_body=OF_VLLM
        )
        assert neutral_chat.choices == answer.choices and neutral_chat.usage == answer.usage
        streamed = await client.chat.completions.create(
            messages=messages, **chat, stream=True, stream_options={"include_usage": True}
        )
        *parts, last = [chunk async for chunk in streamed]
        assert parts[0].choices[0].delta.role == "assistant"
        said = "".join(part.choices[0].delta.content or "" for part in parts)
        assert (said, last.usage) == (answer.choices[0].message.content, answer.usage)
        again = [*messages, answer.choices[0].message, *MESSAGES]  # as OpenAI's documents continue a chat
        assert (await client.chat.completions.create(messages=again, **chat)).usage is not None


@pytest.mark.parametrize(
    ("body", "status", "message", "param"),
    [
        ({"logit_bias": {"3": 1}}, 400, "'logit_bias'", None),
        ({"store": True}, 400, "'store' is True", None),
        ({"service_tier": "flex"}, 400, "'service_tier' is 'flex'", None),
        ({"stream_options": {"include_usage": True}}, 400, "stream=true", None),
        ({"echo": True, "stream": True}, 400, "echo cannot be streamed", None),
        ({"max_tokens": 0}, 400, "max_tokens=0", None),
        ({"best_of": 3}, 400, "'best_of' is 3", None),
        ({"presence_penalty": 0.5}, 400, "'presence_penalty' is 0.5", None),
        ({"guided_regex": "a+"}, 400, "'guided_regex' is not supported", None),
        ({"prompt": ""}, 400, "should have at least 1", "prompt"),
        ({"prompt": "1" * 60}, 400, "61 tokens.* 48", "prompt"),
        ({"prompt": "?"}, 400, r"'\?'", "prompt"),
        ({"prompt": [1, 28]}, 400, "token id 28.* 27", "prompt"),
        ({"model": "gpt-9"}, 404, "'gpt-9'.* base, first", "model"),
        ({"n": 0}, 400, "greater than or equal to 1", "n"),
        ({"n": 33}, 400, "33.* 32", "n"),
        ({"max_tokens": 401}, 400, "401.* 400", "max_tokens"),
        ({"logprobs": 4}, 400, "logprobs .*4.* 3", "logprobs"),
        ({"temperature": -1}, 400, "greater than or equal to 0", "temperature"),
        ({"stop": ["a"] * 17}, 400, "at most 16", "stop"),
        ({"prompt": [PROMPT] * 3, "n": 11}, 400, "33.* 32", "n"),
        ({"prompt": "1" * 20_001}, 413, "20000 bytes", None),
    ],
)
async def test_completions_invalid_request_is_refused_with_its_parameter(
    alice: httpx.AsyncClient, body: dict[str, Any], status: int, message: str, param: str | None
) -> None:
    said, named = await refusal(
        alice, "/v1/completions", status, **{"model": "base", "prompt": PROMPT, **body}
    )
    assert re.search(message, said)
    assert param is None or (named or "").startswith(param)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"max_tokens": 0}, "max_tokens=0"),
        ({"max_tokens": 2, "max_completion_tokens": 2}, "the same"),
        ({"top_logprobs": 1}, "logprobs=true"),
        ({"response_format": {"type": "json_object"}}, "'response_format'"),
        ({"tools": [{"type": "function"}]}, "'tools'"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "image_url.*text alone"),
    ],
)
async def test_chat_invalid_request_is_refused_by_name(
    alice: httpx.AsyncClient, body: dict[str, Any], message: str
) -> None:
    asked = {"model": "base", "messages": MESSAGES, **body}
    said, _ = await refusal(alice, "/v1/chat/completions", 400, **asked)
    assert re.search(message, said)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"model": "base", "prompt": "\xff"}', "UTF-8"),
        (b"{", "JSON"),
        (b"[]", "valid dictionary"),
    ],
)
async def test_body_without_json_is_refused(alice: httpx.AsyncClient, content: bytes, message: str) -> None:
    headers = {"Content-Type": "application/json"}
    answer = await alice.post("/v1/candidates", content=content, headers=headers)
    assert answer.status_code == 400 and message in answer.json()["error"]["message"]


async def test_routes_without_a_token_are_health_and_page(
    service: GenerationService, alice: httpx.AsyncClient
) -> None:
    async with caller(service, None) as stranger:
        statuses = [
            (await stranger.get(path)).status_code for path in ("/v1/models", "/healthz", "/readyz", "/")
        ]
    assert statuses == [401, 200, 200, 200]
    assert (await alice.get("/v1/adapters")).status_code == 403


async def test_candidates_are_stored_with_their_selection(
    service: GenerationService, alice: httpx.AsyncClient
) -> None:
    asked = {"prompt": PROMPT, "model": "first", "seed": 4, "max_tokens": 12}
    answer = await post(alice, "/v1/candidates", **asked, k=6)
    shown = answer["candidates"]
    assert [each["index"] for each in shown] == list(range(len(shown)))
    assert sum(each["count"] for each in shown) == 6 == len(shown) + len(answer["collapsed"])
    best = max(shown, key=lambda each: each["logprob"])
    assert (answer["selector"], answer["selected_index"]) == ("logprob", best["index"])
    assert answer["policy"]["model"] == "first" and re.fullmatch("[0-9a-f]{64}", answer["policy"]["sha256"])
    completion = await post(alice, "/v1/completions", **asked, n=6, logprobs=0)
    for each in shown:
        same = completion["choices"][each["sample"]]
        assert each["text"] == same["text"]
        assert each["logprob"] == pytest.approx(sum(same["logprobs"]["token_logprobs"]), abs=1e-4)

    body = {"candidates_id": answer["id"], "selected_index": 1, "client_key": "page-1"}
    first = await post(alice, "/v1/selections", 201, **body)
    assert await post(alice, "/v1/selections", 200, **body) == first
    message, param = await refusal(alice, "/v1/selections", 409, **{**body, "selected_index": 0})
    assert re.search("client_key='page-1' .*index 1", message) and param == "client_key"
    stored = (await alice.get(f"/v1/candidates/{answer['id']}")).json()
    assert stored["answer"] == answer and stored["selection"] == first
    assert (await alice.get("/v1/candidates?limit=1")).json()["data"] == [stored]
    async with caller(service, "bob") as bob:
        assert (await bob.get(f"/v1/candidates/{answer['id']}")).status_code == 404
        assert (await bob.get("/v1/candidates")).json()["data"] == []
        await refusal(bob, "/v1/selections", 404, candidates_id=answer["id"], selected_index=0)


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"selected_index": 0, "edited_text": "RRUU"}, 201, ""),
        ({"selected_index": None}, 201, ""),
        ({"candidates_id": "cand-none", "selected_index": 0}, 404, "'cand-none'"),
        ({"selected_index": 1}, 400, "selected_index=1 "),
        ({"selected_index": 64}, 400, "less than 64"),
        ({}, 400, "selected_index"),
        ({"selected_index": 0, "edited_text": " "}, 400, "edited_text"),
    ],
)
async def test_selection_is_stored_or_refused(
    alice: httpx.AsyncClient, body: dict[str, Any], status: int, message: str
) -> None:
    answer = await post(alice, "/v1/candidates", prompt=PROMPT, k=1, max_tokens=4)
    said = await post(alice, "/v1/selections", status, **{"candidates_id": answer["id"], **body})
    if status == 201:
        stored = (await alice.get(f"/v1/candidates/{answer['id']}")).json()
        assert stored["selection"] == said
        assert {key: stored["selection"][key] for key in body} == body
    else:
        assert message in said["error"]["message"]


async def test_candidates_stream_ends_with_the_whole_answer(alice: httpx.AsyncClient) -> None:
    body = {"messages": MESSAGES, "k": 3, "oversample": 12, "seed": 6, "max_tokens": 10, "model": "first"}
    whole = await post(alice, "/v1/candidates", **body)
    assert len(whole["candidates"]) == 3
    streamed = (await alice.post("/v1/candidates", json={**body, "stream": True})).text
    blocks = [block.split("\n") for block in streamed.strip().split("\n\n")]
    assert blocks[-1] == ["data: [DONE]"] and blocks[-2][0] == "event: candidates"
    final = json.loads(blocks[-2][1].removeprefix("data: "))
    assert final["candidates"] == whole["candidates"] and final["collapsed"] == whole["collapsed"]
    texts, finished = dict.fromkeys(range(12), ""), []
    for name, data in blocks[:-2]:
        event = json.loads(data.removeprefix("data: "))
        if name == "event: delta":
            texts[event["sample"]] += event["text"]
        else:
            finished.append(event["sample"])
    assert sorted(finished) == list(range(12))
    assert all(texts[each["sample"]] == each["text"] for each in final["candidates"])
    assert final["timings"]["first_token_s"] < final["timings"]["generate_s"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"k": 0}, "greater than or equal to 1"),
        ({"k": 65}, "less than or equal to 64"),
        ({"k": 4, "oversample": 3}, "oversample=3 .*k=4"),
        ({"oversample": 33}, "33.* 32"),
        ({"messages": MESSAGES}, "prompt .*messages"),
        ({"prompt": None}, "prompt .*messages"),
        ({"selector": "reward"}, "selector='reward' "),
        ({"score": True}, "score=True .*reward"),
        ({"selector": "best"}, "selector"),
        ({"beams": 3}, "beams"),
        ({"stop": ["a"] * 17}, "at most 16"),
        ({"stop": "a" * 257}, "at most 256"),
        ({"metadata": {"a": json.loads("[" * 99 + "]" * 99)}}, "nested more than 100 deep"),
    ],
)
async def test_candidates_invalid_request_is_refused(
    alice: httpx.AsyncClient, body: dict[str, Any], message: str
) -> None:
    said, _ = await refusal(alice, "/v1/candidates", 400, **{"prompt": PROMPT, **body})
    assert re.search(message, said)


async def test_adapters_are_loaded_and_unloaded(root: httpx.AsyncClient, service: GenerationService) -> None:
    directory = Path(service.config.adapter_roots[0])
    loaded = await post(root, "/v1/adapters", 201, path=str(directory / "adapter-2"), name="second")
    assert loaded["models"][0]["delivery_difference"] < 1e-4
    names = [entry["id"] for entry in (await root.get("/v1/models")).json()["data"]]
    assert names == ["base", "first", "second"]
    answer = await post(
        root, "/v1/completions", model="second", prompt=PROMPT, max_tokens=8, seed=1, logprobs=0
    )
    logprobs = answer["choices"][0]["logprobs"]
    prompt = encode_prompt(TOKENIZER, Prompt("", PROMPT))
    expected = expected_logprobs(adapter_model(2), prompt, token_ids(logprobs["tokens"]))
    assert logprobs["token_logprobs"] == pytest.approx(expected, abs=1e-4)
    deleted = {"object": "adapter", "key": "second", "deleted": True}
    assert (await root.delete("/v1/adapters/second")).json() == deleted
    assert (await root.get("/v1/models/second")).status_code == 404
    assert (await root.delete("/v1/adapters/second")).status_code == 404
    assert (await root.delete("/v1/adapters/first")).status_code == 409
    save_adapter(adapter_model(3), directory / "stranger", {"base_sha256": "c" * 64})
    for path, message in (("/etc", "/etc.*adapter_roots"), (str(directory / "stranger"), "cccccccccccc")):
        said, _ = await refusal(root, "/v1/adapters", 400, path=path)
        assert re.search(message, said)


async def test_completions_of_a_disconnected_client_are_cancelled(service: GenerationService) -> None:
    """Over ASGI; a real connection: tests/integration/test_generation_service.py."""
    body = json.dumps({"model": "first", "prompt": PROMPT, "n": 16, "temperature": 0}).encode()
    gone = asyncio.Event()
    messages = [{"type": "http.request", "body": body, "more_body": False}]
    sent: list[Any] = []

    async def receive() -> Any:
        if messages:
            return messages.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [
        (b"content-type", b"application/json"),
        (b"authorization", f"Bearer {TOKENS['alice']}".encode()),
    ]
    scope = {**SCOPE, "method": "POST", "path": "/v1/completions", "headers": headers}
    task = asyncio.create_task(build_http_app(service)(scope, receive, send))  # type: ignore[arg-type]
    while sum(service.held().values()) < 16:
        await asyncio.sleep(0.005)
    gone.set()
    await task
    async with asyncio.timeout(2):
        while any(service.held().values()):
            await asyncio.sleep(0.005)
    assert sent[0]["status"] == 499


async def test_service_troubles_have_their_status(
    service: GenerationService, alice: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    with service.sampler.reserved(40):
        answer = await alice.post("/v1/completions", json={"model": "base", "prompt": PROMPT})
    assert answer.status_code == 429 and answer.headers["retry-after"] == "1"
    assert re.search("8 completions .* 8", answer.json()["error"]["message"])

    def full(*_: object, **__: object) -> None:
        raise StoreFull("the database has no space left; nothing was stored; make room")

    candidates = await post(alice, "/v1/candidates", prompt=PROMPT, k=1, max_tokens=4)
    choice = {"candidates_id": candidates["id"], "selected_index": 0}
    with monkeypatch.context() as patch:
        patch.setattr(service.store, "add_selection", full)
        message, _ = await refusal(alice, "/v1/selections", 507, **choice)
    assert "nothing was stored" in message
    await post(alice, "/v1/selections", 201, **choice)


async def test_info_and_gauges_of_an_idle_replica(
    service: GenerationService, alice: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = (await alice.get("/v1/info")).json()
    assert (info["max_prompt_tokens"], info["has_reward"], info["queued_sequences"]) == (48, False, 0)
    assert info["counts"]["first"]["completions"] > 0 and info["adapters"]["first"]["trouble"] is None
    seen: list[tuple[int, int]] = []
    monkeypatch.setattr(service.metrics, "load", lambda queued, running: seen.append((queued, running)))
    async with asyncio.timeout(5):
        while not seen:
            await asyncio.sleep(0.01)
    assert seen[0] == (0, 0)
