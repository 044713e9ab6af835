"""/v1/adapters: loading, unloading and following at run time, for admins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request

from polyray.config.generation import AdapterSpec
from polyray.config.paths import relative_to
from polyray.serving.json_body import read_body

if TYPE_CHECKING:
    from polyray.serving.generation.service import GenerationService

ROUTE = "/v1/adapters"


def needs_admin(method: str, path: str) -> bool:
    """Whether a route is for admins alone."""
    return path == ROUTE or path.startswith(f"{ROUTE}/")


def add_adapters(app: FastAPI, service: GenerationService) -> None:
    """Adds the routes."""

    @app.get(ROUTE)
    async def adapters() -> dict[str, Any]:
        """Served and requested adapters; adapters that the engine holds, and the load on each."""
        return {
            "object": "list",
            "data": [_described(service, key) for key in service.adapters.specs],
            "troubles": service.adapters.troubles,
            "held": service.held(),
        }

    @app.post(ROUTE, status_code=201)
    async def load(request: Request) -> dict[str, Any]:
        """Serves an adapter, a version of a run, or a run that is followed; answered once it is proven."""
        with relative_to(service.root):
            spec = await read_body(request, AdapterSpec)
        key, models = await service.adapters.add(spec)
        served = [
            {"id": live.model, "sha256": live.policy.sha256, "delivery_difference": live.difference}
            for live in models
        ]
        return {**_described(service, key), "models": served}

    @app.delete(ROUTE + "/{key}")
    async def unload(key: str) -> dict[str, Any]:
        """Serves it no more; what runs on it finishes."""
        await service.adapters.catch_up(key)
        await service.adapters.remove(key)
        return {"object": "adapter", "key": key, "deleted": True}


def _described(service: GenerationService, key: str) -> dict[str, Any]:
    spec = service.adapters.specs[key]
    return {"object": "adapter", "key": key, **spec.model_dump(mode="json", exclude_none=True)}
