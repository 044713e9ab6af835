"""The generation service as a Ray Serve deployment.

service.py is the plain class; run.py deploys it for a job, and `build` is for Serve itself:

    serve run services.generation:app adapters='[{"path": "runs/sft/adapter"}]'
    serve deploy deploy/serve/generation.yaml
"""
# No `from __future__ import annotations`: Serve reads the annotation of `build` as a class.

from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve import Application
from ray.serve.schema import LoggingConfig

from polyray.cluster.session import CPU_ENVIRONMENT
from polyray.config.generation import GenerationServeConfig
from polyray.errors import ConfigError
from polyray.serving.generation.routes import build_http_app
from polyray.serving.generation.service import GenerationService
from polyray.serving.generation.tokens import TokenBook

REQUESTS_PER_SEQUENCE = 2
"""Requests that a replica holds, for each completion that it decodes or lets wait: Serve must not be what queues."""

REPLICA_ENVIRONMENT = {"RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0"}
"""Environment of a replica: its code shares Serve's event loop, because nothing in the service blocks it.

No message of a request then waits for another thread.
"""


class DeployedGenerationService(GenerationService):
    """The service in a replica of Serve, which awaits `__del__` when it stops one."""

    def __serve_build_asgi_app__(self) -> FastAPI:
        return build_http_app(self)

    async def __del__(self) -> None:
        """Files in shared memory go at once, not with the watchdog."""
        await self.close()


class SelfReliantGenerationService(DeployedGenerationService):
    """Started by Serve itself, without a driver of ours: its tokens come from the environment of its process."""

    def __init__(self, config: GenerationServeConfig) -> None:
        super().__init__(config, TokenBook.load(config.tokens_file))


def build_generation_app(
    config: GenerationServeConfig, book: TokenBook, reward_app: str | None, root: str | None = None
) -> Application:
    """The deployment, bound; see GenerationService for what it is bound to."""
    return _deployment(DeployedGenerationService, config).bind(config, book, reward_app, root)


def build(args: GenerationServeConfig) -> Application:
    """Application for `serve run services.generation:app key=value ...` and import_path of Serve's configuration.

    Raises ConfigError for a reward that would have to be started beside it.
    """
    if args.reward is not None and args.reward.type != "http":
        raise ConfigError(
            f"reward.type={args.reward.type!r}: a service that Serve starts itself scores through a reward service "
            "that runs already; set reward.type=http with its url, or use `polyray serve`"
        )
    return _deployment(SelfReliantGenerationService, args).bind(args)


def _deployment(service: type[GenerationService], config: GenerationServeConfig) -> serve.Deployment:
    engine, limits = config.engine, config.limits
    most = REQUESTS_PER_SEQUENCE * (engine.max_sequences + engine.max_queued_sequences)
    options: dict[str, Any] = {
        "num_cpus": config.num_cpus,
        "num_gpus": config.num_gpus,
        "label_selector": config.node_labels,
        # Ray sets OMP_NUM_THREADS=1 for processes that ask for less than two CPUs.
        "runtime_env": {
            "env_vars": {
                **REPLICA_ENVIRONMENT,
                "OMP_NUM_THREADS": str(engine.threads),
                **({} if config.num_gpus else CPU_ENVIRONMENT),
            }
        },
    }
    return serve.deployment(serve.ingress(None)(service)).options(
        name="generation",
        num_replicas=config.num_replicas,
        ray_actor_options=options,
        user_config={"started": True},
        max_ongoing_requests=most,
        health_check_period_s=5.0,
        health_check_timeout_s=engine.health_timeout_s + 5.0,
        max_constructor_retry_count=2,
        graceful_shutdown_timeout_s=limits.request_timeout_s,
        graceful_shutdown_wait_loop_s=0.1,
        logging_config=LoggingConfig(log_level="WARNING", enable_access_log=False),
    )
