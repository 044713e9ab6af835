"""Joining a cluster that is there, with what can be wrong about it by name: address, token, versions.

Ray itself waits minutes for an address where nobody listens, and answers a refused token with a mere "failed to
connect" (the reason is on stderr). Called by resources.py; jobs.doctor shows the same errors.
"""

from __future__ import annotations

import os
import socket
from typing import Any

import ray

from polyray.errors import ConfigError, ResourceError

CONNECT_TIMEOUT_S = 5.0
ON_THIS_MACHINE = ("auto", "local")
"""Words in place of an address."""


def join(address: str, **options: Any) -> Any:
    """`ray.init(**options)` with RAY_ADDRESS set to `address`; what it returns.

    Raises ResourceError where nobody answers there, ConfigError for an address of another kind, a refused token, and
    another version of Ray or Python.
    """
    if "://" in address:
        raise ConfigError(
            f"RAY_ADDRESS={address} is no address of a Ray that a process can join; give HEAD:6379, on a machine of "
            "the cluster, or send the job: python -m jobs.submit ... --address http://HEAD:8265"
        )
    if address not in ON_THIS_MACHINE:
        _refuse_silence(address)
    try:
        return ray.init(**options)
    except ConnectionError as error:
        raise ConfigError(_not_let_in(address)) from error
    except RuntimeError as error:
        if "Version mismatch" not in str(error):
            raise
        raise ConfigError(
            f"{' '.join(str(error).split())}; use the same image, or environments of the same requirements/*.txt and "
            "Python on all machines"
        ) from None


def _refuse_silence(address: str) -> None:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError(
            f"RAY_ADDRESS={address} is no HOST:PORT; the port of a head is 6379 unless said otherwise"
        )
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT_S):
            return
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ResourceError(
            f"nobody answers at RAY_ADDRESS={address} ({reason}); is the head up (`ray start --head --port={port}`), "
            "and its port open from here? Without RAY_ADDRESS a job starts a local Ray"
        ) from error


def _not_let_in(address: str) -> str:
    if address in ON_THIS_MACHINE:
        return (
            f"RAY_ADDRESS={address}: there is no Ray on this machine that lets this process in; start one (`ray "
            "start`), give HEAD:6379, or unset RAY_ADDRESS for a local Ray"
        )
    mode = os.environ.get("RAY_AUTH_MODE", "")
    fix = (
        "its token is another one: put the cluster's into RAY_AUTH_TOKEN or ~/.ray/auth_token"
        if mode == "token"
        else "if it wants a token, export RAY_AUTH_MODE=token, with the token in RAY_AUTH_TOKEN or ~/.ray/auth_token"
    )
    return f"what listens at RAY_ADDRESS={address} does not let this process in (RAY_AUTH_MODE={mode}); {fix}"
