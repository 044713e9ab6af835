"""jobs.analyze ablation on real engines: contributions follow from the samples."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from polyray.cli.analyze import main
from polyray.evaluation.records import read_samples

pytestmark = pytest.mark.slow  # two engines of its own

PROMPTS, SAMPLES = 24, 4


@pytest.fixture
def config(model_cache: Path, tmp_path: Path) -> Path:
    values = {
        "name": "ablation",
        "runs_dir": str(tmp_path),
        "model": {"path": "embedded", "cache_dir": str(model_cache), "lora": {"rank": 4, "alpha": 8}},
        "adapters": {"base": None},
        "evaluation": {
            "num_prompts": PROMPTS, "num_samples": SAMPLES, "ks": [1, 2], "bootstrap_resamples": 100,
        },
    }  # fmt: skip
    file = tmp_path / "evaluate.yaml"
    file.write_text(yaml.safe_dump(values))
    return file


def test_ablation_of_each_layer_gives_its_contribution(
    ray_session: None, warm_start: Path, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["ablation", str(config), "--adapter", str(warm_start)]
    assert main(arguments) == 0
    run = tmp_path / "ablation"
    samples = list(read_samples(run / "evaluation" / "samples.jsonl"))
    models = list(dict.fromkeys(sample.model for sample in samples))
    assert models == ["whole adapter", *(f"without layer {layer}" for layer in range(4))]
    passed = {
        model: sum(sample.reward for sample in samples if sample.model == model) / (PROMPTS * SAMPLES)
        for model in models
    }
    texts = {model: [sample.completion for sample in samples if sample.model == model] for model in models}
    assert len({tuple(each) for each in texts.values()}) == len(models)  # every layer does something
    entries = json.loads((run / "contributions.json").read_text())
    for entry in entries:
        if (entry["metric"], entry["k"]) == ("pass_at_k", 1):
            expected = passed["whole adapter"] - passed[f"without {entry['part']}"]
            assert entry["contribution"] == pytest.approx(expected)
    assert {entry["part"] for entry in entries} == {f"layer {layer}" for layer in range(4)}
    assert r"\toprule" in (run / "tables" / "ablation.tex").read_text()
    assert "layer 3" in (run / "tables" / "ablation.md").read_text()
    first = (run / "evaluation" / "metrics.json").read_bytes()
    capsys.readouterr()
    assert main(arguments) == 0  # finished: it only says what it found
    assert (run / "evaluation" / "metrics.json").read_bytes() == first
    assert "layer 0" in capsys.readouterr().out
