"""`polyray export`: byte-equal adapters, merged models that answer like base and adapter, cards, the hub."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from peft import PeftModel
from safetensors.torch import load_file, save_file

from polyray.cli.export import main
from polyray.config.base import as_json
from polyray.config.model import LoraSpec, ModelSpec
from polyray.errors import ConfigError
from polyray.models.adapter_files import read_adapter
from polyray.models.base import resolve_base
from polyray.models.base_files import base_fingerprint
from polyray.models.loading import load_base
from polyray.models.lora import attach_adapter, save_adapter
from polyray.models.tokenizer import load_tokenizer
from polyray.runs.data_record import record_data
from polyray.runs.jsonl import JsonlWriter
from tests.unit.tiny_policy import move, save_base, train_config

TOKENS = torch.tensor([[1, 4, 9, 13, 2], [1, 5, 5, 6, 7]])
ADAPTER_FILES = ["README.md", "adapter_config.json", "adapter_model.safetensors", "polyray.json"]
TOKEN = "hf_planted_secret"


def _save(base: Path, directory: Path, size: float) -> str:
    """Save an adapter that is moved away from the base by `size`; return its sha256."""
    sha256 = base_fingerprint(base)
    spec = LoraSpec(rank=4, alpha=8)
    model = attach_adapter(load_base(base, "float32"), spec, None, base_sha256=sha256, seed=0)
    move(model, size)
    return save_adapter(model, directory, {"base_sha256": sha256, "run": "tiny"})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Base, and a run with a final adapter, a best one, version 2, and a line of metrics."""
    directory = tmp_path_factory.mktemp("trained")
    base = save_base(directory / "base")
    for name, size in (("adapter", 0.05), ("best", 0.04), ("versions/2", 0.03)):
        _save(base, directory / "runs" / "tiny" / name, size)
    return directory


@pytest.fixture
def base(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained / "base", tmp_path / "base"))


@pytest.fixture
def finished(trained: Path, base: Path, tmp_path: Path) -> Path:
    algorithm = {"type": "polychromic", "objective": "pairwise", "diversity_weight": 0.5, "set_size": 2}
    config = train_config(
        name="tiny", runs_dir=str(tmp_path / "runs"), model={"path": str(base)}, algorithm=algorithm
    )
    run = Path(shutil.copytree(trained / "runs" / "tiny", config.run_dir))
    (run / "config.json").write_text(json.dumps(as_json(config)))
    with JsonlWriter(run / "metrics.jsonl") as writer:
        writer.write({"step": 5, "reward_mean": 0.25})
    (run / "DONE").write_text("{}")
    return run


Export = Callable[..., Path]


@pytest.fixture
def export(finished: Path, tmp_path: Path) -> Export:
    def to(kind: str, name: str = "out", *options: str) -> Path:
        assert main([str(finished), f"--{kind}", str(tmp_path / name), *options]) == 0
        return tmp_path / name

    return to


def _configure(run: Path, **sections: Any) -> dict[str, Any]:
    """Change keys of sections of the run's configuration, and return all of it."""
    values = json.loads((run / "config.json").read_text())
    for name, section in sections.items():
        values[name] = {**(values.get(name) or {}), **section} if name in ("model", "learner") else section
    (run / "config.json").write_text(json.dumps(values))
    return values


def _logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(TOKENS).logits


def _with_adapter(base: Path, adapter: Path) -> torch.Tensor:
    return _logits(PeftModel.from_pretrained(load_base(base, "float32"), str(adapter)))


def _card(out: Path) -> tuple[dict[str, Any], str]:
    text = (out / "README.md").read_text()
    return yaml.safe_load(text.split("---\n")[1]), text


@pytest.mark.parametrize(
    ("options", "source"), [([], "adapter"), (["--best"], "best"), (["--version", "2"], "versions/2")]
)
def test_exported_adapter_is_byte_equal_and_loads_on_its_base(
    options: list[str], source: str, finished: Path, base: Path, export: Export
) -> None:
    out = export("adapter", "deep/out", *options)
    content, config = read_adapter(out, base_fingerprint(base))
    assert content == (finished / source / "adapter_model.safetensors").read_bytes()
    assert config["base_model_name_or_path"] is None  # no directory of this machine
    assert torch.equal(_with_adapter(base, out), _with_adapter(base, finished / source))
    assert sorted(file.name for file in out.iterdir()) == ADAPTER_FILES


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_merged_model_answers_like_base_and_adapter(
    quantization: str, finished: Path, base: Path, export: Export
) -> None:
    _configure(finished, model={"quantization": quantization})
    out = export("merged")
    merged = _logits(load_base(out, "float32"))
    assert (merged - _with_adapter(base, finished / "adapter")).abs().max() < 1e-5
    assert (merged - _logits(load_base(base, "float32"))).abs().max() > 0.1
    assert load_tokenizer(out).get_vocab() == load_tokenizer(base).get_vocab()
    manifest = json.loads((out / "polyray.json").read_text())
    assert manifest["merged_from"] == base_fingerprint(base)
    assert manifest["base_sha256"] == base_fingerprint(out)
    assert os.stat(out / "model.safetensors").st_mode & 0o777 == 0o644
    noted = ["nf4 (4 bits)" in _card(each)[1] for each in (out, export("adapter", "adapter"))]
    assert noted == [quantization == "nf4"] * 2


def test_merged_model_in_another_dtype_states_its_rounding_loss(base: Path, export: Export) -> None:
    out, exact = export("merged", "rounded", "--dtype", "bfloat16"), export("merged", "exact")
    weights = load_file(out / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"
    full, original = load_file(exact / "model.safetensors"), load_file(base / "model.safetensors")
    changed = [name for name in full if not torch.equal(full[name], original[name])]
    assert len(changed) == 7
    lost = sum(float((weights[name].float() - full[name]).square().sum()) for name in changed) ** 0.5
    moved = sum(float((full[name] - original[name]).square().sum()) for name in changed) ** 0.5
    assert f"lost by rounding to bfloat16 | {lost / moved:.1%} of" in _card(out)[1]


def test_merged_model_of_a_sharded_base_keeps_its_files(finished: Path, base: Path, export: Export) -> None:
    tensors = load_file(base / "model.safetensors")
    (base / "model.safetensors").unlink()
    parts = {"model-1.safetensors": sorted(tensors)[::2], "model-2.safetensors": sorted(tensors)[1::2]}
    for file, names in parts.items():
        save_file({name: tensors[name] for name in names}, base / file, metadata={"format": "pt"})
    index = {"metadata": {"total_size": 1}, "weight_map": {n: f for f, names in parts.items() for n in names}}
    (base / "model.safetensors.index.json").write_text(json.dumps(index))
    _save(base, finished / "adapter", 0.05)
    out = export("merged", "out", "--dtype", "bfloat16")
    assert {file: sorted(load_file(out / file)) for file in parts} == parts
    size = json.loads((out / "model.safetensors.index.json").read_text())["metadata"]["total_size"]
    assert size == sum(2 * tensor.numel() for tensor in tensors.values())


def test_adapter_on_a_merged_warm_start_names_no_published_base(
    finished: Path, tmp_path: Path, export: Export
) -> None:
    warm = {"warm_start": str(finished / "versions/2"), "warm_start_mode": "merge_then_fresh"}
    values = _configure(finished, model=warm | {"cache_dir": str(tmp_path / "cache")})
    merged_base = resolve_base(ModelSpec.model_validate(values["model"])).directory
    _save(merged_base, finished / "adapter", 0.05)
    expected = _with_adapter(merged_base, finished / "adapter")
    assert (_logits(load_base(export("merged"), "float32")) - expected).abs().max() < 1e-5
    _configure(finished, model={"path": "Qwen/Qwen3-8B"})
    out = export("adapter", "adapter")
    head, card = _card(out)
    assert "base_model" not in head and "`Qwen/Qwen3-8B` with a warm start merged into it" in card
    assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] is None


def test_card_of_a_hub_base_names_the_base(
    finished: Path, tmp_path: Path, export: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    _configure(finished, model={"path": "Qwen/Qwen3-8B"})
    out = export("adapter")
    head, _ = _card(out)
    assert (head["base_model"], head["base_model_relation"]) == ("Qwen/Qwen3-8B", "adapter")
    assert (head["library_name"], "license" in head) == ("peft", False)
    assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] == "Qwen/Qwen3-8B"


def test_card_shows_base_data_and_configuration_without_addresses(
    finished: Path, base: Path, tmp_path: Path, export: Export
) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "1"}\n')
    task = {"type": "jsonl", "path": str(prompts), "held_out_path": str(tmp_path / "gone.jsonl")}
    _configure(finished, task=task, reward={"type": "http", "url": "http://inner.example:9000"})
    (base / "README.md").write_text("---\nlicense: apache-2.0\nlanguage: en\n---\n\n# The base\n")
    (base / "LICENSE").write_text("the base's own terms")
    out = export("merged")
    head, card = _card(out)
    assert (head["license"], head["library_name"]) == ("apache-2.0", "transformers")
    assert head["tags"] == ["polyray", "lora", "polychromic", "pairwise"]
    assert "base_model" not in head  # a directory has no name on a hub
    assert (out / "LICENSE").read_text() == "the base's own terms"
    sha256 = hashlib.sha256(prompts.read_bytes()).hexdigest()
    for words in (
        f"| task.path (prompts.jsonl) | `{sha256} as the file is at this export",
        "| task.held_out_path (gone.jsonl) | `no such file",
        "reward_mean 0.25",
        "no evaluation of these weights",
        "diversity_weight: 0.5",
    ):
        assert words in card
    assert "inner.example" not in card and str(tmp_path) not in card


def test_card_shows_hashes_of_data_as_recorded_at_the_start(
    finished: Path, tmp_path: Path, export: Export
) -> None:
    files = {"train": tmp_path / "a" / "data.jsonl", "validation": tmp_path / "b" / "data.jsonl"}
    for key, file in files.items():
        file.parent.mkdir()
        file.write_text(f"{key} as it was")
    data = {"type": "jsonl", **{key: str(file) for key, file in files.items()}}
    record_data(finished / "data.json", _configure(finished, data=data))
    files["train"].write_text("never trained on")
    files["validation"].unlink()
    card = _card(export("adapter"))[1]
    for key in files:
        sha256 = hashlib.sha256(f"{key} as it was".encode()).hexdigest()
        assert f"| data.{key} (data.jsonl) | `{sha256}` |" in card


def test_card_shows_the_evaluation_of_exactly_these_weights(
    finished: Path, tmp_path: Path, export: Export
) -> None:
    for arm, value in (("best", 0.75), ("adapter", 0.5)):
        sha256 = json.loads((finished / arm / "polyray.json").read_text())["adapter_sha256"]
        directory = finished.parent / f"of-{arm}" / "evaluation"
        directory.mkdir(parents=True)
        with JsonlWriter(directory / "samples.jsonl") as writer:
            writer.write({"task_id": "a", "model": "zero-shot", "adapter_sha256": None})
            writer.write({"task_id": "a", "model": "mine", "adapter_sha256": sha256})
        entry = {"value": value, "low": value - 0.1, "high": None}
        metrics = {"dataset_sha256": "d" * 64, "n_problems": 7, "n_clusters": 3, "n_samples": 4,
                   "confidence": 0.9, "selector": "logprob",
                   "models": {"mine": {"pass_at_k": {"1": entry}}, "zero-shot": {}}}  # fmt: skip
        (directory / "metrics.json").write_text(json.dumps(metrics))
    (finished.parent / "reward" / "evaluation").mkdir(parents=True)
    (finished.parent / "reward" / "evaluation" / "metrics.json").write_text('{"n_pairs": 3}')
    card = _card(export("adapter", "final"))[1]
    assert "| pass_at_1 | 0.5 | [0.4, not measured] |" in card and "7 held-out prompts in 3 clusters" in card
    assert "| pass_at_1 | 0.75 |" in _card(export("adapter", "best", "--best"))[1]
    with pytest.raises(ConfigError, match=r"of-best .*final adapter"):
        export("adapter", "no", "--evaluation", str(finished.parent / "of-best"))


def test_unfinished_run_exports_its_best_adapter_but_no_final_one(finished: Path, export: Export) -> None:
    """A run of 6 steps was started again with 100 and is at step 40."""
    (finished / "DONE").unlink()
    _configure(finished, learner={"steps": 100})
    with JsonlWriter(finished / "metrics.jsonl") as writer:
        writer.write({"step": 40, "reward_mean": 0.9})
    with pytest.raises(ConfigError, match=r"tiny .*DONE .*--best or --version 2$"):
        export("adapter")
    assert "had not ended: 41 steps" in _card(export("adapter", "out", "--best"))[1]


@pytest.mark.parametrize("target", ["mine", "file/out", "file/deeper/out"])
def test_export_to_a_target_that_is_taken_or_impossible_changes_no_file(
    target: str, tmp_path: Path, export: Export
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "mine").mkdir()
    with pytest.raises(ConfigError, match=rf"{target} (exists|cannot be made)"):
        export("adapter", target)
    assert list((tmp_path / "mine").iterdir()) == []


def test_failed_merge_leaves_no_file(finished: Path, base: Path, tmp_path: Path, export: Export) -> None:
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"quantization_config": {"bits": 4}}))
    manifest = finished / "adapter" / "polyray.json"
    changed = json.loads(manifest.read_text()) | {"base_sha256": base_fingerprint(base)}
    manifest.write_text(json.dumps(changed))
    with pytest.raises(ConfigError, match=r"quantised .*--adapter"):
        export("merged")
    assert not [*tmp_path.glob("out"), *tmp_path.glob(".out*")]


def test_adapter_of_another_base_is_exported_but_not_merged(base: Path, export: Export) -> None:
    save_base(base, num_hidden_layers=2)
    with pytest.raises(ConfigError, match="belongs to the base"):
        export("merged")
    export("adapter")


def test_run_without_the_asked_adapter_is_named_with_its_adapters(finished: Path, tmp_path: Path) -> None:
    config = (finished / "config.json").read_text()
    for name, content in (("empty", config), ("swept", '{"name": "s", "train": "x.yaml"}'), ("none", None)):
        (finished.parent / name / "trials").mkdir(parents=True)
        if content:
            (finished.parent / name / "config.json").write_text(content)
    (finished.parent / "swept" / "trials" / "t000-1").mkdir()
    for name, options, message in (
        ("tiny", ["--version", "9"], r"tiny .*version 9 .*--best, --version 2"),
        ("none", [], r"none .*config\.json is missing.*runs/NAME"),
        ("empty", [], r"empty .*final adapter .*train it"),
        ("swept", [], r"sweep: .*trials/t000-1"),
    ):
        with pytest.raises(ConfigError, match=message):
            main([str(finished.parent / name), "--adapter", str(tmp_path / "out"), *options])


def test_check_prints_the_plan_and_writes_no_file(
    finished: Path, tmp_path: Path, export: Export, capsys: pytest.CaptureFixture[str]
) -> None:
    export("merged", "out", "--best", "--check")
    plan = json.loads(capsys.readouterr().out)
    assert (plan["kind"], plan["adapter"], plan["evaluation"]) == ("merged", str(finished / "best"), None)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--adapter", "a", "--merged", "b"], "not allowed with"),
        ([], "--adapter --merged is required"),
        (["--adapter", "a", "--dtype", "float32"], "--dtype belongs to --merged"),
        (["--adapter", "a", "--public"], "--public belongs to --push"),
        (["--adapter", "a", "--push", "nobody"], "OWNER/NAME"),
        (["--adapter", "a", "--push", "me/x"], "HF_TOKEN"),
    ],
)
def test_contradicting_options_are_refused(
    options: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with pytest.raises(ConfigError, match=message):
        main(["run", *options])


class _Hub:
    """Stand-in for huggingface_hub.HfApi."""

    calls: list[tuple[str, Any]]
    refuses = False
    visibility: str | None = None
    """Visibility of an existing repository; None: there is none."""

    def __init__(self, token: str) -> None:
        self.token = token
        self.calls.append(("token", token))

    def create_repo(self, name: str, *, private: bool, exist_ok: bool) -> str:
        if self.refuses:
            raise OSError(f"403: token {self.token} may not write\ndetails")
        self.calls.append((name, {"private": private, "exist_ok": exist_ok}))
        return f"https://hub.example/{name}"

    def repo_info(self, name: str) -> SimpleNamespace:
        if self.visibility is None:
            return SimpleNamespace(private=self.calls[-1][1]["private"])
        return SimpleNamespace(private=self.visibility == "private")

    def upload_folder(self, *, repo_id: str, folder_path: Path, commit_message: str) -> None:
        self.calls.append((repo_id, sorted(file.name for file in folder_path.iterdir())))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> type[_Hub]:
    hub = type("Hub", (_Hub,), {"calls": []})
    monkeypatch.setattr("huggingface_hub.HfApi", hub)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return hub


@pytest.mark.parametrize("public", [False, True])
def test_push_is_private_unless_asked_and_shows_no_token(
    public: bool, hub: type[_Hub], export: Export, capsys: pytest.CaptureFixture[str]
) -> None:
    out = export("adapter", "out", "--push", "me/tiny", *(["--public"] if public else []))
    repository = {"private": not public, "exist_ok": True}
    assert hub.calls == [("token", TOKEN), ("me/tiny", repository), ("me/tiny", ADAPTER_FILES)]
    shown = capsys.readouterr()
    assert "https://hub.example/me/tiny" in shown.out
    written = "".join(file.read_text(errors="replace") for file in out.iterdir())
    assert TOKEN not in shown.out + shown.err + written


@pytest.mark.parametrize("kind", ["adapter", "merged"])
def test_refused_push_hides_the_token_and_is_repeated_by_the_same_command(
    kind: str, hub: type[_Hub], tmp_path: Path, export: Export
) -> None:
    hub.refuses = True
    with pytest.raises(ConfigError, match=r"me/tiny .*403: token \*\*\* .*same command again") as caught:
        export(kind, "out", "--push", "me/tiny")
    assert TOKEN not in str(caught.value)
    written = {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    hub.refuses = False
    out = export(kind, "out", "--push", "me/tiny")
    assert hub.calls[-1] == ("me/tiny", sorted(written))
    assert {file.name: file.read_bytes() for file in out.iterdir()} == written
    assert str(tmp_path) not in (out / "polyray.json").read_text()


@pytest.mark.parametrize(
    ("options", "change", "reason"),
    [
        (["--best"], None, "final, .* best"),
        ([], "README.md", r"README\.md changed"),
        ([], "notes.txt", r"notes\.txt changed"),
        ([], "polyray.json", r"no export .*polyray\.json"),
    ],
)
def test_push_of_a_changed_or_different_export_is_refused(
    options: list[str], change: str | None, reason: str, hub: type[_Hub], export: Export
) -> None:
    out = export("adapter")
    if change is not None:
        (out / change).write_text("{}")
    with pytest.raises(ConfigError, match=reason):
        export("adapter", "out", "--push", "me/tiny", *options)
    assert hub.calls == []


@pytest.mark.parametrize(
    ("options", "visibility", "fix"),
    [([], "public", "add --public"), (["--public"], "private", "leave --public out")],
)
def test_push_to_a_repository_of_another_visibility_sends_no_file(
    options: list[str], visibility: str, fix: str, hub: type[_Hub], export: Export
) -> None:
    hub.visibility = visibility
    with pytest.raises(ConfigError, match=rf"me/tiny .*{visibility}.*{fix}"):
        export("adapter", "out", "--push", "me/tiny", *options)
    assert [name for name, _ in hub.calls] == ["token", "me/tiny"]
