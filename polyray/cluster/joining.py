"""Join an existing cluster, with named errors for a wrong address, token or version.

Ray itself waits minutes for an address that does not answer. It says no more than "failed to connect" about a
refused token, a wrong port, and a machine outside the cluster; the error's cause has the details.
Called by session.py; polyray doctor shows the same errors.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
import ray.exceptions

from polyray.errors import ConfigError, ResourceError

CONNECT_TIMEOUT_S = 5.0
ON_THIS_MACHINE = ("auto", "local")
"""Words in place of an address."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Addresses that Ray replaces by the machine's own."""
TRIES_VARIABLE = "RAY_gcs_server_port_wait_time_s"
"""Ray's name for how often a process that joins tries to reach the head; without it 20 times, 46 s each."""
TRIES = "1"
TOKEN_REFUSED = ("AuthenticationError", "Unauthenticated", "InvalidAuthToken")
OUTSIDE = "No node info found"
"""Ray's message on a machine without a raylet of the cluster."""


def join(address: str, **options: Any) -> Any:
    """Call `ray.init(**options)` with RAY_ADDRESS set to `address`, and return its result.

    Raises ResourceError if nothing answers there, or on a machine outside that cluster. Raises ConfigError for an
    address of another kind, a refused token, and another version of Ray or Python. Waits at most a minute for a
    head that does not answer.
    """
    if "://" in address:
        raise ConfigError(
            f"RAY_ADDRESS={address} is not an address of a Ray that a process can join; give HEAD:6379, on a "
            "machine of the cluster, or send the job: ray job submit --address http://HEAD:8265"
        )
    if address not in ON_THIS_MACHINE:
        _refuse_silence(address)
    try:
        with _few_tries():
            return ray.init(**options)
    except ConnectionError as error:
        raise _not_joined(address, error) from error
    except ray.exceptions.AuthenticationError as error:  # token authentication, and no token here
        raise ConfigError(_token_refused(address)) from error
    except RuntimeError as error:
        if "Version mismatch" not in str(error):
            raise
        raise ConfigError(
            f"{' '.join(str(error).split())}; use the same image, or environments of the same requirements/*.txt and "
            "Python on all machines"
        ) from None


@contextmanager
def _few_tries() -> Iterator[None]:
    """Limit Ray's retries: the port is open, so an address that does not answer now is no head."""
    given = os.environ.get(TRIES_VARIABLE)
    os.environ.setdefault(TRIES_VARIABLE, TRIES)
    try:
        yield
    finally:
        if given is None:
            del os.environ[TRIES_VARIABLE]


def _refuse_silence(address: str) -> None:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError(f"RAY_ADDRESS={address} is not HOST:PORT; the port of a head is 6379 by default")
    host = host.strip("[]")
    asked = ray.util.get_node_ip_address() if host in LOOPBACK else host
    error = _silence(asked, int(port))
    if error is None:
        return
    reason = error.strerror or type(error).__name__
    if asked != host and _silence(host, int(port)) is None:
        raise ResourceError(
            f"something listens at RAY_ADDRESS={address}, but Ray asks this machine's own address instead, "
            f"{asked}:{port}, which does not answer ({reason}); a forwarded port (ssh -L) lets no process join: "
            "start the job on a machine of the cluster, or send it: ray job submit --address http://HEAD:8265"
        ) from error
    raise ResourceError(
        f"nothing answers at RAY_ADDRESS={address} ({reason}); is the head up (`ray start --head --port={port}`), "
        "and its port open from here? Without RAY_ADDRESS a job starts a local Ray"
    ) from error


def _silence(host: str, port: int) -> OSError | None:
    """The error of a connection attempt; None if the port answers."""
    try:
        with socket.create_connection((host, port), timeout=CONNECT_TIMEOUT_S):
            return None
    except OSError as error:
        return error


def _not_joined(address: str, error: BaseException) -> ConfigError | ResourceError:
    """Translate Ray's ConnectionError, by its cause."""
    if address in ON_THIS_MACHINE:
        return ConfigError(
            f"RAY_ADDRESS={address}: there is no Ray on this machine that lets this process in; start one (`ray "
            "start`), give HEAD:6379, or unset RAY_ADDRESS for a local Ray"
        )
    reason = f"{error}\n{error.__cause__ or ''}"
    if any(word in reason for word in TOKEN_REFUSED):
        return ConfigError(_token_refused(address))
    if OUTSIDE in reason:
        return ResourceError(
            f"this machine is not part of the cluster at RAY_ADDRESS={address}: a process joins only where a Ray of "
            f"that cluster runs; start one here (`ray start --address={address}`), start the job on a machine of the "
            "cluster, or send it: ray job submit --address http://HEAD:8265"
        )
    last = reason.strip().splitlines()[-1]
    return ResourceError(
        f"RAY_ADDRESS={address} does not answer as the head of a Ray cluster ({last[:200]}); give "
        "the port of `ray start --head`, 6379 by default (not the dashboard's, 8265); `ray status` on the "
        "head shows its state"
    )


def _token_refused(address: str) -> str:
    mode = os.environ.get("RAY_AUTH_MODE", "")
    fix = (
        "its token is another one: put the cluster's into RAY_AUTH_TOKEN or ~/.ray/auth_token"
        if mode == "token"
        else "it wants a token: export RAY_AUTH_MODE=token, with the token in RAY_AUTH_TOKEN or ~/.ray/auth_token"
    )
    return f"RAY_ADDRESS={address} does not let this process in (RAY_AUTH_MODE={mode}); {fix}"
