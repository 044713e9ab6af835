"""jobs.serve without serving: --check, the announcement, errors of configurations."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from polyray.cli.serve import main
from polyray.cli.serve_reward import _announcement
from polyray.config.paths import SHIPPED_ROOT
from polyray.errors import MissingFile

CONFIG = str(SHIPPED_ROOT / "configs/serve/reward.yaml")


def test_check_prints_the_resolved_configuration(capsys: pytest.CaptureFixture[str]):
    assert main([CONFIG, "--check", "reward.service.num_replicas=3"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["config"]["reward"]["service"]["num_replicas"] == 3
    assert printed["derived"] == {
        "models": ["reward"],
        "replicas": 3,
        "logical_cpus_needed": 3.0,
        "gpus_needed": 0.0,
        "max_ongoing_requests_per_replica": 256,
    }


def test_a_missing_reward_file_fails_the_check():
    overrides = ["reward.type=python", "reward.path=not_there.py:score"]
    with pytest.raises(MissingFile, match=r"not_there\.py"):
        main([CONFIG, "--check", *overrides])


def test_check_loads_neither_ray_nor_torch():
    code = f"""
import sys
from jobs.serve import main
main([{CONFIG!r}, "--check"])
sys.exit(bool({{"ray", "torch", "fastapi", "transformers"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=SHIPPED_ROOT, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_the_announcement_is_a_command_that_can_be_copied():
    text = _announcement("http://h:1/serve/reward", "127.0.0.1", has_token=True)
    assert "WARNING" not in text
    assert (
        'curl http://h:1/serve/reward/v1/score -H "Authorization: Bearer $POLYRAY_API_TOKEN" '
        "-H 'Content-Type: application/json' "
        """-d '{"items": [{"prompt": "37|b1>e4=", "completion": "RRRUUU"}]}'"""
    ) in text


def test_an_open_address_without_a_token_is_warned_about():
    warning = "WARNING: 0.0.0.0 "
    assert warning in _announcement("http://h:1", "0.0.0.0", has_token=False)
    assert warning not in _announcement("http://h:1", "0.0.0.0", has_token=True)
