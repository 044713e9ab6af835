"""The images without building them: linted, pinned, without rights, with a small context that jobs run from."""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.unit.deploy.rendering import KUBERAY, ROOT, program, render_one

DOCKERFILE = ROOT / "docker/Dockerfile"
HEALTH_CHECK = ROOT / "docker/healthcheck.py"
LARGEST_CONTEXT = 8 * 2**20
TEXT = DOCKERFILE.read_text(encoding="utf-8")
STAGES = re.findall(r"^FROM (\S+) AS (\S+)$", TEXT, re.MULTILINE)


def instructions(stage: str) -> list[str]:
    """The instructions of one stage, each on one line."""
    found = re.search(rf"^FROM \S+ AS {stage}$(.*?)(?=^FROM |\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert found is not None, stage
    joined = re.sub(r"\\\n\s*", "", found[1])
    return [line for line in joined.splitlines() if line and not line.startswith("#")]


def context_files() -> list[Path]:
    """Files that `docker build .` sends.

    .dockerignore lists first the paths that are let in, then the ones that are left out.
    """
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    assert patterns[0] == "*", "everything is left out but what is named"
    let_in = [line[1:] for line in patterns if line.startswith("!")]
    left_out = [line.removeprefix("**/") for line in patterns[1:] if not line.startswith("!")]
    files = [
        path
        for name in let_in
        for path in ([ROOT / name] if (ROOT / name).is_file() else (ROOT / name).rglob("*"))
        if path.is_file()
    ]
    return [
        path
        for path in files
        if not any(
            fnmatch.fnmatch(part, pattern) for part in path.relative_to(ROOT).parts for pattern in left_out
        )
    ]


def test_dockerfile_passes_hadolint() -> None:
    done = subprocess.run(
        [program("hadolint"), "--no-color", str(DOCKERFILE)], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert "hadolint ignore" not in TEXT


def test_stages_and_packages_are_pinned() -> None:
    assert [stage for _, stage in STAGES] == [
        "base",
        "build",
        "build-cpu",
        "build-gpu",
        "runtime",
        "gpu",
        "cpu",
    ]
    (image,) = re.findall(r"^ARG PYTHON_IMAGE=(\S+)$", TEXT, re.MULTILINE)
    assert re.fullmatch(r"python:3\.(11|12)\.\d+-slim-[a-z]+(@sha256:[0-9a-f]{64})?", image)
    for target in ("cpu", "gpu"):
        assert instructions(target)[:2] == [f"COPY --from=build-{target} /opt/venv /opt/venv", "COPY . ."]
    (install,) = [line for line in instructions("base") if "apt-get install" in line]
    packages = re.findall(r'"([^"]+)"', install)
    assert packages and all(re.fullmatch(r"[a-z0-9+]+=[\w.:+-]+-\*", package) for package in packages)
    lists = [name for line in instructions("build-cpu") + instructions("build-gpu") for name in re.findall(
        r"pip install \S+ \S+ --no-deps .*?--requirement (\S+)", line)]  # fmt: skip
    assert lists == ["torch.txt", "hashed.txt", "rest.txt", "gpu.txt"]
    assert "pip install" not in " ".join(instructions("runtime") + instructions("cpu") + instructions("gpu"))
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert f"ARG VERSION={version}" in instructions("runtime")


def test_image_has_the_user_and_mounts_of_the_manifests() -> None:
    lines = instructions("runtime")
    assert "USER 1000:1000" in lines and not any(line.startswith("USER") for line in instructions("cpu"))
    (user,) = [line for line in instructions("base") if "useradd" in line]
    assert "--uid 1000 --gid 1000" in user
    pod = render_one(KUBERAY / "overlays/large/cluster")["spec"]["headGroupSpec"]["template"]["spec"]
    assert pod["securityContext"]["runAsUser"] == 1000 and pod["securityContext"]["fsGroup"] == 1000
    (container,) = pod["containers"]
    assert f"WORKDIR {container['workingDir']}" in lines
    mounts = container["volumeMounts"]
    writable = {mount["mountPath"] for mount in mounts if mount["name"] in ("runs", "cache")}
    (made,) = [line for line in lines if "install --directory" in line]
    assert writable == set(re.findall(r"(?<=\s)/\S+", made)), "root must not own mount points"


def test_context_is_small_and_excludes_secrets() -> None:
    words = re.compile(r"(?i)(TOKEN|PASSWORD|SECRET|API_KEY|CREDENTIAL)")
    assert [line for line in TEXT.splitlines() if words.search(line)] == []
    assert sum(path.stat().st_size for path in context_files()) < LARGEST_CONTEXT
    names = {path.relative_to(ROOT).as_posix() for path in context_files()}
    assert {
        "polyray/types.py",
        "jobs/train.py",
        "requirements/gpu.txt",
        "LICENSE",
        "docker/healthcheck.py",
    } <= names
    assert not any(name.startswith((".git", "runs", "tests", "deploy")) or "/.env" in name for name in names)


def test_jobs_run_from_the_context_alone(tmp_path: Path) -> None:
    for path in context_files():
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    assert "RUN python -m jobs.pretrain configs/pretrain.yaml" in instructions("cpu")
    program_text = (
        "import runpy, sys, services, polyray, polyray.cli.arguments\n"
        "for line in sys.argv[1:]:\n"
        "    sys.argv = line.split()\n"
        "    try:\n"
        "        runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)\n"
        "    except SystemExit as end:\n"
        "        assert end.code in (0, None, 2), (line, end.code)\n"
        "print(polyray.cli.arguments.__file__, polyray.__file__)\n"
    )
    lines = [
        "jobs.pretrain configs/pretrain.yaml --check",
        "jobs.train configs/train/hidden_trap_grid.yaml algorithm=@polychromic --check",
        "jobs.evaluate configs/evaluate/hidden_trap_grid.yaml --check",
    ]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", program_text, *lines],
        cwd=tmp_path, env=environment | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    last = done.stdout.splitlines()[-1].split()
    assert all(Path(path).is_relative_to(tmp_path) for path in last)


@contextmanager
def answering(status: int) -> Iterator[str]:
    """The address of a server that answers every request with `status`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/healthz"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "code", "said"), [(200, 0, ""), (503, 1, "HTTP 503"), (204, 1, "HTTP 204")]
)
def test_health_check_follows_the_answer_without_a_proxy(
    status: int, code: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    command = [sys.executable, str(HEALTH_CHECK)]
    with answering(599) as proxy:
        monkeypatch.setenv("http_proxy", proxy)
        with answering(status) as url:
            monkeypatch.setenv("POLYRAY_HEALTH_URL", url)
            done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        assert done.returncode == code and said in done.stderr
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)  # no listener any more
    assert done.returncode == 1 and url in done.stderr and "Traceback" not in done.stderr
