"""Deliberate refusals of the service; routes.py maps them to statuses."""

from __future__ import annotations

from polyray.errors import PolyrayError


class InvalidRequest(PolyrayError):
    """The request asks for something that cannot be; `param` is the part of it that is wrong."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class UnknownPolicy(PolyrayError):
    """No such model is served."""


class AdapterConflict(PolyrayError):
    """An adapter cannot be loaded or unloaded as things are."""


class EngineBusy(PolyrayError):
    """The queue of the engine is full; another try after a while may find room."""


class DeadlineExceeded(PolyrayError):
    """No answer within limits.request_timeout_s."""
