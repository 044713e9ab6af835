"""Attention and states of policies against a second forward pass."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from polyray.cli.analyze import main
from polyray.config.base import as_json
from polyray.config.loader import build_config
from polyray.config.run import EvaluateConfig
from polyray.errors import ConfigError, DataError
from polyray.evaluation.records import SampleRecord
from polyray.models.base_files import base_fingerprint
from polyray.models.lora import save_adapter
from polyray.shelf.research.evaluated.inputs import read_inputs
from polyray.shelf.research.mechanistic.inputs import Material, read_material
from polyray.shelf.research.mechanistic.policies import Policies, Row
from polyray.tasks import build_task
from tests.sample_files import write_lines
from tests.unit.tiny_policy import build_base, build_policy, move, save_base

LAYERS, HEADS = 1, 2
ROWS = [Row((1, 5, 9, 4), (7, 7, 3)), Row((1, 8), (6, 3, 3, 9, 2)), Row((1, 5, 9, 4), (12,))]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("mechanistic") / "base")


@pytest.fixture(scope="module")
def adapters(model_dir: Path) -> dict[str, Path | None]:
    """The base, and two adapters whose updates differ."""
    found: dict[str, Path | None] = {"base": None}
    for number, name in enumerate(("warm start", "new.one")):
        policy = build_policy(reference=False, moved=False)
        move(policy, size=0.1, seed=number)
        directory = model_dir.parent / name / "adapter"
        directory.parent.mkdir()
        save_adapter(policy, directory, {"base_sha256": base_fingerprint(model_dir)})
        found[name] = directory
    return found


def alone(model_dir: Path, adapter: Path | None) -> Any:
    """The same policy with its update merged into the weights."""
    model = AutoModelForCausalLM.from_pretrained(model_dir, attn_implementation="eager").eval()
    return model if adapter is None else PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()


@pytest.mark.parametrize("name", ["base", "warm start", "new.one"])
def test_policy_among_others_matches_the_policy_alone(
    model_dir: Path, adapters: dict[str, Path | None], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    policies = Policies(model_dir, adapters)
    next(iter(policies.look("new.one", ROWS, attention=True)))  # another one was active before
    reference = alone(model_dir, adapters[name])
    together = list(policies.look(name, ROWS, attention=True))
    for row, seen in zip(ROWS, together, strict=True):
        start = len(row.prompt_ids)
        ids = torch.tensor([[*row.prompt_ids, *row.completion_ids]])
        with torch.inference_mode():
            output = reference(ids, output_attentions=True, output_hidden_states=True)
        expected = torch.stack([layer[0, :, start:] for layer in output.attentions])
        assert seen.attention is not None
        assert seen.attention.shape == (LAYERS, HEADS, len(row) - start, len(row))
        torch.testing.assert_close(seen.attention, expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(seen.attention.sum(-1), torch.ones(LAYERS, HEADS, len(row) - start))
        states = torch.stack([layer[0, start:].mean(0) for layer in output.hidden_states])
        torch.testing.assert_close(seen.states, states, atol=1e-5, rtol=1e-5)
    monkeypatch.setattr("polyray.shelf.research.mechanistic.policies.BATCH_BYTES", 1)
    assert policies.batch_rows(7) == 1
    for one, other in zip(together, policies.look(name, ROWS, attention=True), strict=True):
        assert one.attention is not None and other.attention is not None
        torch.testing.assert_close(one.attention, other.attention, atol=1e-6, rtol=1e-6)
    assert all(seen.attention is None for seen in policies.look(name, ROWS, attention=False))


def test_policies_refuse_an_adapter_of_another_base(tmp_path: Path, adapters: dict[str, Path | None]) -> None:
    build_base(seed=9).save_pretrained(tmp_path / "other")
    with pytest.raises(ConfigError, match=r"warm start.* base [0-9a-f]{12}, .*model\.path"):
        Policies(tmp_path / "other", adapters)


@pytest.fixture
def run(tmp_path: Path, model_dir: Path, adapters: dict[str, Path | None]) -> Path:
    """An evaluation of three models on six prompts, four completions each: two walks that differ, twice."""
    values = {
        "name": "evaluation",
        "runs_dir": str(tmp_path),
        "model": {"path": str(model_dir)},
        "adapters": {name: None if path is None else str(path) for name, path in adapters.items()},
        "evaluation": {"num_prompts": 6, "num_samples": 4, "ks": [1, 2]},
    }
    config = build_config(EvaluateConfig, values)
    directory = tmp_path / "evaluation"
    (directory / "evaluation").mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(as_json(config)))
    curve = {str(k): {"value": 0.5, "low": 0.4, "high": 0.6} for k in (1, 2)}
    metrics = {"models": {name: {"pass_at_k": curve} for name in adapters}, "baseline": "base"}
    (directory / "evaluation" / "metrics.json").write_text(json.dumps(metrics))
    records = [
        SampleRecord(
            prompt.prompt_id,
            text,
            index,
            model=name,
            prompt=prompt.text,
            reward=float(index < 3),
            class_id=index % 2,
        )
        for name in adapters
        for prompt in build_task(config.task).held_out_prompts(6)
        for index, text in enumerate(("UURR", "RRUULL", "UURR", "DDD"))
    ]
    write_lines(directory / "evaluation" / "samples.jsonl", records)
    return directory


def table(file: Path) -> list[dict[str, str]]:
    with file.open() as lines:
        return list(csv.DictReader(lines))


def test_analyze_mechanistic_writes_attention_and_clusters(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    options = ["--reference", "warm start", "--layers", "0", "1"]
    assert main(["mechanistic", str(run), "--out", str(out), *options]) == 0
    results = json.loads((out / "mechanistic.json").read_text())
    assert (results["reference"], results["prompts"], results["samples"]) == ("warm start", 6, 4)
    assert results["models"] == ["warm start", "base", "new.one"] and results["layers"] == [0, 1]
    heads = results["attention"]
    assert len(heads) == 3 * LAYERS * HEADS
    assert all(0 < entry["entropy"] < 1 for entry in heads)
    assert all((entry["distance"] == 0) == (entry["model"] == "warm start") for entry in heads)
    for entry in results["attention_by_layer"]:
        own = [head["entropy"] for head in heads if head["model"] == entry["model"]]
        assert entry["entropy"] == pytest.approx(np.mean(own)) and entry["entropy_prompts"] == 6
        assert entry["entropy_low"] <= entry["entropy"] <= entry["entropy_high"]
    embeddings = [entry for entry in results["clusters"] if entry["layer"] == 0]
    # Embeddings depend on the text alone: of UURR, RRUULL, UURR, DDD three differ, so two groups are the most.
    assert len({(entry["count"], entry["silhouette"]) for entry in embeddings}) == 1
    assert embeddings[0]["count"] == 2.0 and embeddings[0]["agreement_prompts"] == 6
    assert [row["model"] for row in table(out / "clusters.csv")] == [e["model"] for e in results["clusters"]]
    assert table(out / "attention.csv")[0]["head"] == "0"
    assert len(table(out / "attention_by_layer.csv")) == 3
    said = capsys.readouterr().out
    assert "new.one" in said and "from the reference" in said and str(out / "mechanistic.html") in said
    page = (out / "mechanistic.html").read_text()
    assert 'id="figure-entropy"' in page and 'id="figure-distance-2"' in page and "new.one" in page
    assert 'id="figure-distance-0"' not in page  # the reference from itself


def material(run: Path, models: list[str], prompts: int, samples: int) -> Material:
    return read_material(read_inputs([run]).runs[0], models, prompts, samples)


def test_entropy_is_the_mean_over_tokens_then_completions_then_prompts(
    run: Path, tmp_path: Path, model_dir: Path
) -> None:
    options = ["--reference", "warm start", "--models", "base", "--prompts", "2"]
    main(["mechanistic", str(run), "--out", str(tmp_path / "out"), *options])
    results = json.loads((tmp_path / "out" / "mechanistic.json").read_text())
    assert results["models"] == ["warm start", "base"] and results["prompts"] == 2
    reference = alone(model_dir, None)

    def entropy(row: Row) -> np.ndarray:
        ids = torch.tensor([[*row.prompt_ids, *row.completion_ids]])
        with torch.inference_mode():
            weights = reference(ids, output_attentions=True).attentions[0][0].double().numpy()
        places = range(len(row.prompt_ids), len(row))
        terms = [-(weights[:, at] * np.log(np.maximum(weights[:, at], 1e-300))).sum(-1) for at in places]
        return np.mean([term / np.log(at + 1) for term, at in zip(terms, places, strict=True)], axis=0)

    answers = material(run, ["warm start"], 2, 16).answers["warm start"]
    expected = np.mean([np.mean([entropy(row) for row in each.rows], axis=0) for each in answers], axis=0)
    found = [entry["entropy"] for entry in results["attention"] if entry["model"] == "base"]
    assert found == pytest.approx(expected, abs=1e-5)


def test_material_counts_prompts_of_one_cluster_as_one(run: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    config["evaluation"]["num_prompts"] = 400  # 200 pairs of start and goal, two maps each
    (run / "config.json").write_text(json.dumps(config))
    assert len(material(run, ["base"], 3, 2).answers["base"]) == 3
    with pytest.raises(DataError, match="'base' to test-"):
        material(run, ["base"], 50, 2)  # the others were never sampled


def test_material_of_an_adapter_that_was_not_sampled_is_refused(run: Path) -> None:
    record = run / "evaluation" / "fingerprints.json"
    record.write_text(json.dumps({"arms": {"base": "none", "warm start": "0" * 64}}))
    with pytest.raises(ConfigError, match=r"arms\.warm start: sha256 000000000000 -> "):
        material(run, ["base"], 2, 4)


def test_material_of_a_fitted_threshold_counts_higher_rewards_as_correct(run: Path) -> None:
    samples = run / "evaluation" / "samples.jsonl"
    samples.write_text(samples.read_text().replace('"reward": 1.0', '"reward": 0.6'))
    metrics = run / "evaluation" / "metrics.json"
    for threshold, classes in ((0.5, (0, 1, 0, None)), (0.7, (None,) * 4)):
        metrics.write_text(json.dumps(json.loads(metrics.read_text()) | {"pass_threshold": threshold}))
        answers = material(run, ["base"], 2, 4).answers["base"]
        assert [sampled.classes for sampled in answers] == [classes, classes]


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        (["--models", "nobody"], DataError, r"'nobody'.* base, warm start, new\.one"),
        (["--layers", "7"], DataError, r"layer 7\b.* 0 .* 1$"),
        (["--reference", "nobody"], ConfigError, r"--reference 'nobody' .*base, warm start, new\.one"),
    ],
)
def test_analyze_mechanistic_names_mistakes_and_writes_nothing(
    run: Path, tmp_path: Path, options: list[str], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        main(["mechanistic", str(run), "--out", str(tmp_path / "out"), *options])
    assert not (tmp_path / "out").exists()
