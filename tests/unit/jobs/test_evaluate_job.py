from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.evaluate import main
from polyray.config.base import as_json
from polyray.config.evaluation import EvaluationSpec
from polyray.config.run import EvaluateConfig
from polyray.errors import ConfigError
from polyray.evaluation.records import SampleRecord, write_lines


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    records = [
        SampleRecord(
            f"p{prompt}", "x", index, model=model, reward=float(index < correct), logprob=-1.0, class_id=index
        )
        for model, correct in (("a", 1), ("b", 3))
        for prompt in range(3)
        for index in range(4)
    ]
    path = tmp_path / "run" / "evaluation" / "samples.jsonl"
    write_lines(path, records)
    return path


def test_score_writes_metrics_beside_the_samples(samples: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", str(samples), "--ks", "1,2", "--baseline", "b", "--resamples", "100"]) == 0
    metrics = json.loads(samples.with_name("metrics.json").read_text())
    assert metrics["models"]["a"]["pass_at_k"]["2"]["value"] == pytest.approx(0.5)
    assert (metrics["baseline"], metrics["bootstrap_resamples"], metrics["seed"]) == ("b", 100, 0)
    assert "0.750 [0.750, 0.750]" in capsys.readouterr().out


def test_score_takes_its_settings_from_the_run(samples: Path) -> None:
    spec = EvaluationSpec(num_samples=4, ks=(1, 4), selector="first", bootstrap_resamples=150)
    config = EvaluateConfig(
        name="run", seed=9, adapters={"a": None, "b": None}, compare_to="b", evaluation=spec
    )
    (samples.parent.parent / "config.json").write_text(json.dumps(as_json(config)))
    assert main(["score", str(samples), "--selector", "reward"]) == 0
    metrics = json.loads(samples.with_name("metrics.json").read_text())
    assert (metrics["seed"], metrics["baseline"], metrics["selector"]) == (9, "b", "reward")
    assert set(metrics["models"]["a"]["pass_at_k"]) == {"1", "4"}


def test_score_refuses_bad_settings(samples: Path) -> None:
    with pytest.raises(ConfigError, match="selector='best'"):
        main(["score", str(samples), "--selector", "best"])
    with pytest.raises(ConfigError, match="ks"):
        main(["score", str(samples), "--ks", "2,1"])


def test_score_and_check_need_neither_torch_nor_ray(samples: Path, tmp_path: Path) -> None:
    config = tmp_path / "e.yaml"
    config.write_text("name: e\nadapters: {base: null}\nevaluation: {num_prompts: 5, num_samples: 16}\n")
    code = (
        "import sys; from jobs.evaluate import main\n"
        f"main(['score', {str(samples)!r}, '--ks', '1'])\n"
        f"main([{str(config)!r}, '--check'])\n"
        "assert not {'torch', 'ray', 'vllm', 'transformers'} & set(sys.modules), 'heavy import'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    checked = json.loads(done.stdout[done.stdout.index("{\n") :])
    assert checked["derived"] == {
        "models": 1, "prompts": 5, "completions_per_model": 80, "completions": 80, "max_tokens": 800,
    }  # fmt: skip
