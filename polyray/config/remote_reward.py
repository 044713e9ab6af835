"""A reward somewhere on the network, and how patient its callers are."""

from __future__ import annotations

import re
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from polyray.config.base import StrictModel
from polyray.config.service import ServiceSpec

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


class ClientSpec(StrictModel):
    """Deadline, retries, circuit breaker and batches of calls over HTTP."""

    deadline_s: float = Field(
        default=45.0, gt=0, description="limit of one call in seconds: all batches, tries and pauses"
    )
    attempt_timeout_s: float = Field(
        default=20.0, gt=0, description="of one try: what hangs leaves time for another"
    )
    max_attempts: int = Field(
        default=5,
        ge=1,
        description="tries of a request: again after 408, 429, 502, 503, 504, no connection, time-outs",
    )
    breaker_failures: int = Field(
        default=8, ge=0, description="failures in a row after which nothing is sent for a while; 0: never"
    )
    breaker_open_s: float = Field(
        default=5.0, gt=0, description="how long; then one request tries whether it is over"
    )
    max_items: int = Field(default=64, ge=1, le=1024, description="per request")
    max_body_kib: int = Field(default=1024, ge=1, description="per request")
    concurrency: int = Field(default=4, ge=1, le=256, description="requests in flight")


class HttpRewardSpec(StrictModel):
    """A reward service of polyray, or anything that speaks OpenRLHF's remote_rm_url."""

    type: Literal["http"] = "http"
    url: str = Field(
        description="polyray: the service's base, e.g. http://10.0.0.7:8000/serve/reward; openrlhf: the whole "
        "address, e.g. http://10.0.0.7:5000/get_reward"
    )
    protocol: Literal["polyray", "openrlhf"] = Field(
        default="polyray", description="the service's wire format"
    )
    model: str | None = Field(
        default=None, description="polyray: which of the service's reward models; null: its only or first one"
    )
    token_env: str | None = Field(
        default=None,
        validate_default=False,
        description="NAME of the environment variable with the bearer token; null: none is sent",
    )
    classes: Literal["task", "service"] = Field(
        default="task", description="source of the classes: `task`, or (polyray) the service"
    )
    raw_range: tuple[float, float] | None = Field(
        default=None, description="openrlhf: the reward's own range, which becomes [0, 1]; needed"
    )
    outside: Literal["unscored", "clip"] = Field(
        default="unscored", description="openrlhf: what a reward outside raw_range is"
    )
    query: str = Field(
        default="{prompt}{completion}", description="openrlhf: the text of a query; both must be named"
    )
    client: ClientSpec = ClientSpec()
    service: ServiceSpec = ServiceSpec()

    @field_validator("url")
    @classmethod
    def _an_address_without_password(cls, value: str) -> str:
        parts = urlsplit(value)
        if "@" in parts.netloc or parts.query:
            raise ValueError("reward.url must hold no user, password or query; export the token (token_env)")
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ValueError(
                f"reward.url={value!r} is not an address; write e.g. http://127.0.0.1:8000/serve/reward"
            )
        return value.rstrip("/")

    @field_validator("token_env")
    @classmethod
    def _a_name_and_no_token(cls, value: str | None) -> str | None:
        # The value is not repeated: a user who gets this wrong has put the token itself here.
        if value is not None and not _VARIABLE.fullmatch(value):
            raise ValueError(
                "token_env is not the name of an environment variable; give the name, e.g. POLYRAY_API_TOKEN, "
                "and export the token under it"
            )
        return value

    @model_validator(mode="after")
    def _fits_the_protocol(self) -> HttpRewardSpec:
        if self.protocol == "openrlhf":
            if self.raw_range is None or not self.raw_range[0] < self.raw_range[1]:
                raise ValueError(
                    f"raw_range={self.raw_range}: protocol=openrlhf does not state the range of its rewards; "
                    "give [lowest, highest]"
                )
            if self.classes == "service" or self.model is not None:
                raise ValueError(
                    "protocol=openrlhf knows neither classes nor models; remove classes and model"
                )
            if any(self.query.count(name) != 1 for name in ("{prompt}", "{completion}")):
                raise ValueError(f"query={self.query!r} must name {{prompt}} and {{completion}} once each")
        elif self.raw_range is not None:
            raise ValueError("raw_range: protocol=polyray scores are in [0, 1] already; remove it")
        return self
