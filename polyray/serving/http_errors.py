"""Errors as OpenAI's clients expect them: {"error": {"message", "type", "param", "code"}}.

Called by every service's FastAPI application. A defect answers 500 without its text; the log has it.
"""

from __future__ import annotations

import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from polyray.errors import PolyrayError

logger = logging.getLogger(__name__)

_CODES = {
    401: "invalid_api_key",
    404: "not_found",
    405: "method_not_allowed",
    413: "request_too_large",
    415: "unsupported_media_type",
    503: "not_ready",
}


class ErrorDetail(BaseModel):
    """Details of an error."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(BaseModel):
    """The body of every error, for the OpenAPI pages of services."""

    error: ErrorDetail


MAX_PARAM_CHARS = 200
"""A key that a caller invented is not echoed whole."""


def error_response(
    status: int,
    message: str,
    *,
    code: str | None = None,
    param: str | None = None,
    headers: dict[str, str] | None = None,
) -> JSONResponse:
    """One error; `param` names the part of the request that is wrong."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    error = {"message": message, "type": kind, "param": param, "code": code or _CODES.get(status)}
    return JSONResponse({"error": error}, status_code=status, headers=headers)


def install_error_handlers(app: FastAPI) -> None:
    """Makes every error of `app` answer in this shape: validation, unknown routes, our own, and defects."""
    app.add_exception_handler(RequestValidationError, _invalid_request)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(PolyrayError, _polyray_error)
    app.add_exception_handler(Exception, _defect)


async def _invalid_request(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    param = ".".join(str(part) for part in first["loc"] if part != "body")[:MAX_PARAM_CHARS] or None
    message = str(first["msg"]).removeprefix("Value error, ")
    if first["type"] in ("string_too_long", "too_long"):
        message += f", not {len(first['input'])}; shorten it or send several requests"
    elif first["type"] == "json_invalid":
        message = f"the body is not valid JSON: {first.get('ctx', {}).get('error', '')}".rstrip(": ")
    message = f"{param}: {message}" if param else message
    return error_response(400, message, code="invalid_request", param=param)


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    message = str(error.detail)
    if error.status_code in (404, 405):
        message = f"{message}: {request.method} {request.url.path}"
    return error_response(error.status_code, message, headers=dict(error.headers or {}))


async def _polyray_error(request: Request, error: Exception) -> JSONResponse:
    logger.error("%s %s: %s", request.method, request.url.path, error)
    return error_response(500, str(error), code=type(error).__name__)


async def _defect(request: Request, error: Exception) -> JSONResponse:
    return error_response(500, "internal error; the service's log has the traceback", code="internal_error")
