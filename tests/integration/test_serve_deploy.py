"""`serve deploy` of deploy/serve on a head with token authentication."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from polyray.config.task import HiddenTrapGridSpec
from polyray.tasks.hidden_trap_grid import HiddenTrapGrid
from tests.conftest import REPOSITORY_ROOT
from tests.ray_head import Head, free_port, ray_head, wait_for

pytestmark = pytest.mark.slow  # a Ray of its own, with its dashboard

API_TOKEN, ADMIN_TOKEN = "api-token-of-this-test-4711", "admin-token-of-this-test-0815"
PATIENCE_S = 200


@dataclass(frozen=True)
class Serving:
    head: Head
    directory: Path
    port: int

    def deploy(self, name: str, **changes: Any) -> None:
        """Deploy deploy/serve/NAME.yaml with `changes`, whose keys have __ for dots."""
        values = yaml.safe_load((REPOSITORY_ROOT / "deploy" / "serve" / f"{name}.yaml").read_text())
        values["http_options"] |= {"host": "127.0.0.1", "port": self.port}
        (application,) = values["applications"]
        for dotted, value in changes.items():
            *path, last = dotted.split("__")
            inner = application
            for key in path:
                inner = inner[int(key) if key.isdigit() else key]
            inner[last] = value
        file = self.directory / f"{name}.yaml"
        file.write_text(yaml.safe_dump(values))
        done = self.head.run("ray.serve.scripts", "deploy", str(file), "--address", self.head.address)
        assert done.returncode == 0, done.stdout + done.stderr
        wait_for(lambda: self.applications().get(name) == "RUNNING", PATIENCE_S)

    def applications(self) -> dict[str, str]:
        """Name -> status, as the dashboard's Serve page has them."""
        found = json.loads(self.head.get("/api/serve/applications/"))["applications"]
        return {name: application["status"] for name, application in found.items()}

    def client(self, route: str, token: str | None) -> httpx.Client:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        return httpx.Client(base_url=f"http://127.0.0.1:{self.port}{route}", headers=headers, timeout=60)


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    directory = tmp_path_factory.mktemp("serve")
    variables = {
        "POLYRAY_API_TOKEN": API_TOKEN,
        "POLYRAY_ADMIN_TOKEN": ADMIN_TOKEN,
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY_ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(
            os.pathsep
        ),
    }
    with ray_head(directory, "serve", variables) as head:
        yield Serving(head, directory, free_port())


def test_both_files_are_deployed_and_need_a_token(serving: Serving, model_cache: Path) -> None:
    serving.deploy("reward")
    with serving.client("/reward", None) as anonymous, serving.client("/reward", API_TOKEN) as caller:
        assert anonymous.get("/v1/info").status_code == 401 and anonymous.get("/healthz").status_code == 200
        info = caller.get("/v1/info").json()
        task = HiddenTrapGrid(HiddenTrapGridSpec())
        paths = [task.demonstration(index, 0) for index in range(20)]
        rewards = [task.reward(prompt, path) for prompt, path in paths]
        items = [{"prompt": prompt.text, "completion": path} for prompt, path in paths]
        scores = caller.post("/v1/score", json={"items": items}).json()["scores"]
        assert [score["score"] for score in scores] == rewards and set(rewards) == {0.0, 1.0}
        assert [model["id"] for model in info["models"]] == ["verifier"]

        serving.deploy("reward", deployments__0__user_config__revision="2")
        wait_for(lambda: caller.get("/v1/info").json()["revision"] == "2", PATIENCE_S)

    serving.deploy(
        "generation",
        args__model__cache_dir=str(model_cache),
        args__database=f"sqlite:///{serving.directory}/selections.db",
    )
    assert serving.applications() == {"generation": "RUNNING"}  # a file is all that is served
    with serving.client("", None) as anonymous, serving.client("", API_TOKEN) as caller:
        body = {"prompt": paths[0][0].text, "k": 4, "seed": 7}
        assert anonymous.post("/v1/candidates", json=body).status_code == 401
        first = caller.post("/v1/candidates", json=body)
        assert first.status_code in (200, 201), first.text
        again = caller.post("/v1/candidates", json=body).json()
        texts = [candidate["text"] for candidate in first.json()["candidates"]]
        assert len(texts) == 4 and texts == [candidate["text"] for candidate in again["candidates"]]
        assert caller.post("/v1/adapters", json={"path": "/nowhere", "name": "x"}).status_code == 403
