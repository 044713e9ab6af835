"""The one Serve instance of a Ray cluster: started once, shared by our services under routes of their own."""

from __future__ import annotations

import logging
import socket
import time
from dataclasses import dataclass, replace

from ray import serve
from ray.exceptions import RayActorError
from ray.serve.config import HTTPOptions, ProxyLocation
from ray.serve.context import _get_global_client  # the only way to learn a running instance's port
from ray.serve.exceptions import RayServeException
from ray.serve.schema import LoggingConfig

from polyray.config.service import LOCAL_HOSTS
from polyray.errors import PolyrayError, ResourceError

logger = logging.getLogger(__name__)

POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Listening:
    """Requested address of a service, and the names of its settings.

    Example:
        Listening(host="127.0.0.1", port=8000, request_timeout_s=60.0, settings="reward.service.")
    """

    host: str
    port: int
    """0: any free one."""
    request_timeout_s: float
    settings: str
    """Prefix of `port` and `host` in the configuration; empty at its top level."""
    any_port: bool = False
    """The port is a default: where it is taken another one will do."""
    guarded: bool = True
    """Callers need a token, or none can do harm."""

    @property
    def who(self) -> str:
        """Name of the listener for errors."""
        return self.settings.rstrip(".") or "the service"


def ensure_serve(listening: Listening) -> tuple[str, int]:
    """(host, port) of the cluster's Serve, which is started unless it runs already.

    Raises ResourceError where the port is taken, where Serve listens on another one, and where a service for this
    machine alone that asks for no token would be reachable from others.
    """
    logging.getLogger("ray.serve").setLevel(logging.WARNING)  # it tells of every deployment
    try:
        client = _get_global_client()
    except RayServeException:
        client = None
    running = client.http_config if client is not None else None
    if running is None:
        port = free_port(listening)
        options = HTTPOptions(host=listening.host, port=port, request_timeout_s=listening.request_timeout_s)
        try:
            _start_serve(options)
        except (
            RayActorError
        ) as error:  # Serve gave up a proxy that was slow to start, and has started another
            logger.warning("Serve's HTTP proxy is started once more: %s", error)
            _start_serve(options)
        return listening.host, port
    if listening.port not in (0, running.port) and not listening.any_port:
        setting = f"{listening.settings}port"
        raise ResourceError(
            f"{setting}={listening.port}, but this Ray cluster's Serve listens on port {running.port}; "
            f"set {setting} to {running.port} or 0, or start a Ray of your own"
        )
    host = running.host or listening.host
    if not listening.guarded and listening.host in LOCAL_HOSTS and host not in LOCAL_HOSTS:
        raise ResourceError(
            f"{listening.settings}host={listening.host}, but this Ray cluster's Serve listens on {host}, and the "
            "service asks for no token: others could call it; set POLYRAY_API_TOKEN, or start a Ray of your own"
        )
    return host, running.port


def free_port(listening: Listening) -> int:
    """The configured port if it is free, any free one for 0 or in place of a default. Raises ResourceError.

    Serve's proxy opens its port with SO_REUSEPORT and would silently share it with another service.
    """
    host, port = listening.host, listening.port
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if listening.any_port:
                logger.info("port %d is taken; %s listens on another one", port, listening.who)
                return free_port(replace(listening, port=0, any_port=False))
            raise ResourceError(
                f"{listening.who} cannot listen on {host}:{port} ({error.strerror}); stop what uses it, or set "
                f"{listening.settings}port to another port, or to 0 for any free one"
            ) from None
        return probe.getsockname()[1]


def reachable(host: str) -> str:
    """The address to use on this machine for a service that listens on `host`."""
    return "127.0.0.1" if host in ("0.0.0.0", "::") else host


def wait_until_running(
    app_name: str, what: str, timeout_s: float, needs: str, failure: type[PolyrayError]
) -> None:
    """Returns once the application answers.

    Raises `failure` with the last line of what its code raised, and ResourceError, with what it `needs`, where it is
    not ready in time.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        status = serve.status().applications.get(app_name)
        if status is not None and status.status == "RUNNING":
            return
        if status is not None and status.status in ("DEPLOY_FAILED", "UNHEALTHY"):
            details = [deployment.message for deployment in status.deployments.values() if deployment.message]
            reason = _last_line(*details, status.message)
            raise failure(f"{what} {app_name} did not start: {reason}")
        if time.monotonic() > deadline:
            raise ResourceError(f"{what} {app_name} is not ready after {timeout_s:g} s; it needs {needs}")
        time.sleep(POLL_S)


def stop_application(app_name: str) -> None:
    """Removes an application; does nothing where there is none. Serve itself stays for others."""
    try:
        serve.delete(app_name)
    except RayServeException:
        return


def _start_serve(options: HTTPOptions) -> None:
    """Start Serve, or connect to the running one."""
    serve.start(
        proxy_location=ProxyLocation.HeadOnly,
        http_options=options,
        logging_config=LoggingConfig(log_level="WARNING", enable_access_log=False),
    )


def _last_line(*tracebacks: str) -> str:
    """Last line of Serve's report of a failed start, without the class of our own errors."""
    last = next((text for text in tracebacks if text), "").strip().rpartition("\n")[2]
    module, _, rest = last.partition("polyray.errors.")
    return last if module or not rest else rest.partition(": ")[2]
