"""Request bodies as models: strict JSON, one pass, every mistake a RequestValidationError (400 in the common shape).

Stricter than FastAPI's own: NaN and infinite numbers, keys that come twice, lone surrogates and other encodings than
UTF-8 are refused, and so is a nesting that no parser can follow. Called by the routes of services.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

ModelT = TypeVar("ModelT", bound=BaseModel)

MAX_DEPTH = 100
"""Deepest nesting: pydantic writes about 250 levels, and the answer of a request has its metadata."""
_JSON_TYPE = re.compile(r"application/([\w.-]+\+)?json\s*(;.*)?", re.IGNORECASE)


def body_schema(model: type[BaseModel]) -> dict[str, Any]:
    """`openapi_extra` of a route that calls `read_body`; `add_schemas` resolves it."""
    reference = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": reference}}}}


async def read_body(request: Request, model: type[ModelT]) -> ModelT:
    """The validated body. Raises RequestValidationError, and HTTPException(415) for another content type."""
    content_type = request.headers.get("content-type", "")
    if not _JSON_TYPE.fullmatch(content_type.strip()):
        raise HTTPException(415, f"Content-Type {content_type!r} is not JSON; send application/json")
    try:
        return model.model_validate(parse_json(await request.body()))
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_url=False)) from None


def parse_json(body: bytes) -> Any:
    """The value of strict JSON. Raises RequestValidationError saying what is wrong."""
    try:
        value = json.loads(
            body.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_no_constant,
            parse_float=_finite,
        )
        if b"\\ud" in body.lower():
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeError as error:
        raise _invalid(f"not UTF-8 text: {error}") from None
    except ValueError as error:  # JSONDecodeError, and what the hooks below raise
        raise _invalid(str(error)) from None
    except RecursionError:
        raise _invalid("nested too deeply") from None
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH and _is_deep(value):
        raise _invalid(f"nested more than {MAX_DEPTH} deep")
    return value


def _is_deep(value: Any) -> bool:
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(MAX_DEPTH):
        containers = [inner.values() if isinstance(inner, dict) else inner for inner in level]
        level = [inner for values in containers for inner in values if isinstance(inner, dict | list)]
        if not level:
            return False
    return True


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for at, name in enumerate(names) if name in names[:at])
        raise ValueError(f"the key {twice[:80]!a} comes twice")
    return mapping


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text[:80]} is too large a number")
    return value


def _invalid(reason: str) -> RequestValidationError:
    return RequestValidationError(
        [{"type": "json_invalid", "loc": ("body",), "msg": reason, "input": None, "ctx": {"error": reason}}]
    )
