"""A judge's endpoint on this machine that speaks both protocols and answers as a test says.

with JudgeServer(lambda asked: {"overall": "A"}) as server:
    spec = server.spec("openai")
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

from polyray.config.judge import JudgeMode, JudgeSpec
from polyray.config.loader import build_config
from polyray.shelf.judge import Judgement, JudgeRunner
from polyray.shelf.judge.items import JudgeItem

BLOCK = re.compile(
    r"<<<BEGIN (?P<label>[^>\n]*) (?P<mark>[0-9a-f]{16})>>>\n(?P<text>.*?)\n<<<END \1 \2>>>", re.DOTALL
)
INPUT_TOKENS, CACHED_TOKENS, OUTPUT_TOKENS = 100, 40, 10
"""Reported for every answer."""


@dataclass
class Asked:
    """One request as the server saw it, in one form for both protocols."""

    protocol: str
    body: dict[str, Any]
    headers: Mapping[str, str]
    system: str
    messages: list[dict[str, str]]
    structured: str
    """tool, json_schema or text."""
    at: float = field(default_factory=time.monotonic)

    @property
    def user(self) -> str:
        """The question itself."""
        return self.messages[0]["content"]

    @property
    def texts(self) -> dict[str, str]:
        """Label -> text of every block between markers of the message's own mark."""
        mark = self.user.partition("MARK: ")[2][:16]
        return {found["label"]: found["text"] for found in BLOCK.finditer(self.user) if found["mark"] == mark}

    @property
    def outside(self) -> str:
        """The message without the texts between markers."""
        return BLOCK.sub("", self.user)


@dataclass
class Reply:
    """Reply of the server: structured or plain answer, or error status."""

    answer: dict[str, Any] | str = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    finish: str = "stop"
    raw: bytes | None = None


Script = Callable[[Asked], "Reply | dict[str, Any] | str"]


class JudgeServer:
    """Answers POST /v1/chat/completions and /v1/messages with `script`, and keeps requests."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.asked: list[Asked] = []
        self.in_flight = self.most_in_flight = 0
        self._lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._http.daemon_threads = True
        self._thread = threading.Thread(
            target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )

    def __enter__(self) -> JudgeServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        """Address without a path."""
        return f"http://127.0.0.1:{self._http.server_port}"

    def values(self, provider: str = "openai", **changes: Any) -> dict[str, Any]:
        """Plain values of a JudgeSpec that asks this server, impatient and without reasoning."""
        base_url = self.url + ("/v1" if provider == "openai" else "")
        values = {
            "provider": provider,
            "model": "m",
            "base_url": base_url,
            "explain": False,
        }
        return values | {"criteria": ["relevance"], "timeout_s": 10.0} | changes

    def spec(self, provider: str = "openai", **changes: Any) -> JudgeSpec:
        """`values`, validated."""
        return build_config(JudgeSpec, self.values(provider, **changes))

    def handle(self, protocol: str, body: dict[str, Any], headers: Mapping[str, str]) -> tuple[Reply, bytes]:
        """The reply to one request and its body."""
        asked = _asked(protocol, body, headers)
        with self._lock:
            self.asked.append(asked)
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            said = self.script(asked)
            reply = said if isinstance(said, Reply) else Reply(said)
            time.sleep(reply.delay_s)
        finally:
            with self._lock:
                self.in_flight -= 1
        if reply.status != 200 and "Retry-After" not in reply.headers:
            reply.headers["Retry-After-Ms"] = "5"  # else the SDKs wait half a second and more
        if reply.raw is not None:
            return reply, reply.raw
        if reply.status != 200:
            return reply, json.dumps({"type": "error", "error": {"message": str(reply.answer)}}).encode()
        encode = _openai if protocol == "openai" else _anthropic
        return reply, json.dumps(encode(asked, reply)).encode()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = (
                2**16
            )  # head and body in one packet, else each answer waits 40 ms for an acknowledgement

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                protocol = {"/v1/chat/completions": "openai", "/v1/messages": "anthropic"}[self.path]
                reply, content = server.handle(protocol, body, dict(self.headers))
                try:
                    self.send_response(reply.status)
                    for name, value in reply.headers.items():
                        self.send_header(name, value)
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)
                except (BrokenPipeError, ConnectionResetError):  # the client was killed, or had enough
                    self.close_connection = True

            def log_message(self, format: str, *args: Any) -> None:
                pass

        return Handler


def _asked(protocol: str, body: dict[str, Any], headers: Mapping[str, str]) -> Asked:
    messages = list(body["messages"])
    if protocol == "openai":
        system = messages.pop(0)["content"]
        schema = "response_format" in body
    else:
        system, schema = body["system"], "output_config" in body
    structured = "tool" if "tools" in body else "json_schema" if schema else "text"
    lowered = {name.lower(): value for name, value in headers.items()}
    return Asked(protocol, body, lowered, system, messages, structured)


def _openai(asked: Asked, reply: Reply) -> dict[str, Any]:
    text = reply.answer if isinstance(reply.answer, str) else json.dumps(reply.answer)
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if asked.structured == "tool":
        function = {"name": asked.body["tools"][0]["function"]["name"], "arguments": text}
        call = {"id": "c", "type": "function", "function": function}
        message = {"role": "assistant", "content": None, "tool_calls": [call]}
    usage = {
        "prompt_tokens": INPUT_TOKENS,
        "completion_tokens": OUTPUT_TOKENS,
        "total_tokens": INPUT_TOKENS + OUTPUT_TOKENS,
        "prompt_tokens_details": {"cached_tokens": CACHED_TOKENS},
    }
    choice = {"index": 0, "message": message, "finish_reason": reply.finish}
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [choice],
        "usage": usage,
    }


def _anthropic(asked: Asked, reply: Reply) -> dict[str, Any]:
    if asked.structured == "tool" and isinstance(reply.answer, dict):
        name = asked.body["tools"][0]["name"]
        content = [{"type": "tool_use", "id": "t", "name": name, "input": reply.answer}]
    else:
        text = reply.answer if isinstance(reply.answer, str) else json.dumps(reply.answer)
        content = [{"type": "text", "text": text}]
    stop = {"stop": "end_turn", "length": "max_tokens", "content_filter": "refusal"}[reply.finish]
    usage = {
        "input_tokens": INPUT_TOKENS - CACHED_TOKENS,
        "cache_read_input_tokens": CACHED_TOKENS,
        "output_tokens": OUTPUT_TOKENS,
    }
    head = {"id": "x", "type": "message", "role": "assistant", "model": "m", "stop_sequence": None}
    return head | {"content": content, "stop_reason": stop, "usage": usage}


def prefers_longer(asked: Asked) -> dict[str, Any]:
    """A fair judge of pairs: the longer text wins, equal ones tie."""
    first, second = len(asked.texts["candidate A"]), len(asked.texts["candidate B"])
    side = "tie" if first == second else "A" if first > second else "B"
    return {"relevance": side, "overall": side}


def prefers_first(asked: Asked) -> dict[str, Any]:
    """A judge that has not read anything."""
    return {"relevance": "A", "overall": "A"}


def counts_words(asked: Asked) -> dict[str, Any]:
    """A rubric judge: as many points as words, at most 5."""
    points = max(1, min(5, len(asked.texts["candidate"].split())))
    return dict.fromkeys(criteria_of(asked), points)


def criteria_of(asked: Asked) -> list[str]:
    """The keys that the instructions ask for."""
    return asked.system.partition("Its keys: ")[2].partition(".")[0].split(", ")


def judge_stream(
    items: Iterable[JudgeItem], spec: JudgeSpec, mode: JudgeMode, cache_path: Path, **options: Any
) -> Generator[Judgement, None, None]:
    """Judgements of `items` in their order."""
    with JudgeRunner(spec, mode, cache_path, **options) as runner:
        yield from runner.stream(items)
