"""A judge behind any OpenAI-compatible endpoint, through the `openai` SDK: POST BASE_URL/chat/completions.

vLLM, llama.cpp, gateways and OpenAI itself speak it. Structured output is `response_format` with a JSON schema,
or a function that the model must call. Built by runner.py.
"""

from __future__ import annotations

from typing import Any

from polyray.config.judge import JudgeSpec
from polyray.errors import JudgeError
from polyray.shelf.judge.providers import ChatAnswer, ChatRequest, Form, answered

DEFAULT_BASE_URL = "https://api.openai.com/v1"
_FINISH = {"length": "length", "content_filter": "refusal"}


class OpenAIProvider:
    """One model of one endpoint; every call belongs to the event loop of the first."""

    def __init__(self, spec: JudgeSpec, key: str) -> None:
        import openai

        self._sdk = openai
        self._spec = spec
        # The address and the key are given, so that nothing is taken from the SDK's own variables.
        self._client = openai.AsyncOpenAI(
            api_key=key,
            base_url=spec.base_url or DEFAULT_BASE_URL,
            timeout=spec.timeout_s,
            max_retries=spec.max_attempts - 1,
        )

    async def ask(self, request: ChatRequest, form: Form) -> ChatAnswer:
        """See `Provider.ask`."""
        call = self._client.chat.completions.create(**self._arguments(request, form))
        return await answered(self._spec, self._sdk, call, self._answer)

    async def close(self) -> None:
        """See `Provider.close`."""
        await self._client.close()

    def _arguments(self, request: ChatRequest, form: Form) -> dict[str, Any]:
        question, spec = request.question, self._spec
        # OpenAI's own models want the new name of the limit, many compatible servers know only the old one.
        limit = "max_completion_tokens" if spec.base_url is None else "max_tokens"
        arguments: dict[str, Any] = {
            "model": spec.model,
            "messages": [{"role": "system", "content": question.system}, *request.messages],
            limit: spec.max_tokens,
        }
        if spec.temperature is not None:
            arguments["temperature"] = spec.temperature
        schema = {"name": question.schema_name, "strict": True}
        if form == "tool":
            function = schema | {"parameters": dict(question.schema)}
            arguments["tools"] = [{"type": "function", "function": function}]
            arguments["tool_choice"] = {"type": "function", "function": {"name": question.schema_name}}
        elif form == "json_schema":
            arguments["response_format"] = {
                "type": "json_schema",
                "json_schema": schema | {"schema": dict(question.schema)},
            }
        return arguments

    def _answer(self, completion: Any) -> ChatAnswer:
        choice, usage = completion.choices[0], completion.usage
        if usage is None:
            raise JudgeError(f"the judge {self._spec.name} reports no token counts; no budget can be kept")
        message = choice.message
        calls = [call.function.arguments for call in message.tool_calls or () if call.type == "function"]
        refused = bool(message.refusal)
        details = usage.prompt_tokens_details
        return ChatAnswer(
            text="\n".join(calls) or message.content or message.refusal or "",
            finish_reason="refusal" if refused else _FINISH.get(choice.finish_reason or "", "stop"),
            input_tokens=usage.prompt_tokens,
            cached_tokens=(details.cached_tokens or 0) if details else 0,
            output_tokens=usage.completion_tokens,
        )
