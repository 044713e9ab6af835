"""A judge behind Anthropic's messages protocol, through the `anthropic` SDK: POST BASE_URL/v1/messages.

Structured output is a tool that the model must call with the answer as its input; or `output_config` with a JSON
schema. Built by runner.py.
"""

from __future__ import annotations

import json
from typing import Any

from polyray.config.judge import JudgeSpec
from polyray.errors import JudgeError
from polyray.shelf.judge.providers import ChatAnswer, ChatRequest, Form, answered

DEFAULT_BASE_URL = "https://api.anthropic.com"
_FINISH = {"max_tokens": "length", "model_context_window_exceeded": "length", "refusal": "refusal"}


class AnthropicProvider:
    """One model of one endpoint; every call belongs to the event loop of the first."""

    def __init__(self, spec: JudgeSpec, key: str) -> None:
        import anthropic

        self._sdk = anthropic
        self._spec = spec
        # The address and the key are given, so that nothing is taken from the SDK's own variables and profiles.
        self._client = anthropic.AsyncAnthropic(
            api_key=key,
            base_url=spec.base_url or DEFAULT_BASE_URL,
            timeout=spec.timeout_s,
            max_retries=spec.max_attempts - 1,
        )

    async def ask(self, request: ChatRequest, form: Form) -> ChatAnswer:
        """See `Provider.ask`."""
        call = self._client.messages.create(**self._arguments(request, form))
        return await answered(self._spec, self._sdk, call, self._answer)

    async def close(self) -> None:
        """See `Provider.close`."""
        await self._client.close()

    def _arguments(self, request: ChatRequest, form: Form) -> dict[str, Any]:
        question, spec = request.question, self._spec
        arguments: dict[str, Any] = {
            "model": spec.model,
            "max_tokens": spec.max_tokens,
            "system": question.system,
            "messages": request.messages,
        }
        if spec.temperature is not None:
            # No argument of the SDK any more, but the protocol still has the field.
            arguments["extra_body"] = {"temperature": spec.temperature}
        if form == "json_schema":
            output = {"type": "json_schema", "schema": dict(question.schema)}
            arguments["output_config"] = {"format": output}
        elif form == "tool":
            name = question.schema_name
            tool = {"name": name, "description": "Gives the answer.", "input_schema": dict(question.schema)}
            arguments["tools"] = [tool]
            arguments["tool_choice"] = {"type": "tool", "name": name, "disable_parallel_tool_use": True}
        return arguments

    def _answer(self, message: Any) -> ChatAnswer:
        calls = [block.input for block in message.content if block.type == "tool_use"]
        texts = [block.text for block in message.content if block.type == "text"]
        text = "\n".join(json.dumps(call, ensure_ascii=False) for call in calls) or "".join(texts)
        usage = message.usage
        if usage is None:
            raise JudgeError(f"the judge {self._spec.name} reports no token counts; no budget can be kept")
        cached = usage.cache_read_input_tokens or 0
        written = usage.cache_creation_input_tokens or 0
        return ChatAnswer(
            text=text,
            finish_reason=_FINISH.get(message.stop_reason or "", "stop"),
            input_tokens=usage.input_tokens + cached + written,
            cached_tokens=cached,
            output_tokens=usage.output_tokens,
        )
