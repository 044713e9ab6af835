"""jobs.export: byte-equal adapters, merged models that answer like base and adapter, cards, refusals, the hub."""

from __future__ import annotations

import hashlib
import json
import os
import re
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
from polyray.models.loading import load_base, load_tokenizer
from polyray.models.lora import attach_adapter, save_adapter
from polyray.runs.data_record import record_data
from polyray.runs.jsonl import JsonlWriter
from tests.unit.tiny_policy import move, save_base, train_config

TOKENS = torch.tensor([[1, 4, 9, 13, 2], [1, 5, 5, 6, 7]])
CARD = "---\nlicense: apache-2.0\nlanguage: en\n---\n\n# The base\n"


def _save(base: Path, directory: Path, size: float) -> str:
    """An adapter moved away from the base by so much; its sha256."""
    sha256 = base_fingerprint(base)
    spec = LoraSpec(rank=4, alpha=8)
    model = attach_adapter(load_base(base, "float32"), spec, None, base_sha256=sha256, seed=0)
    move(model, size)
    return save_adapter(model, directory, {"base_sha256": sha256, "run": "tiny"})


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return save_base(tmp_path / "base")


@pytest.fixture
def finished(base: Path, tmp_path: Path) -> Path:
    """A run with a final adapter, a best one, version 2, and a line of metrics."""
    config = train_config(runs_dir=str(tmp_path / "runs"), model={"path": str(base)}, algorithm={
        "type": "polychromic", "objective": "pairwise", "diversity_weight": 0.5, "set_size": 2})  # fmt: skip
    run = config.run_dir
    for name, size in (("adapter", 0.05), ("best", 0.04), ("versions/2", 0.03)):
        _save(base, run / name, size)
    (run / "config.json").write_text(json.dumps(as_json(config)))
    with JsonlWriter(run / "metrics.jsonl") as writer:
        writer.write({"step": 5, "reward_mean": 0.25})
    (run / "DONE").write_text("{}")
    return run


def _logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(TOKENS).logits


def _with_adapter(base: Path, adapter: Path) -> torch.Tensor:
    return _logits(PeftModel.from_pretrained(load_base(base, "float32"), str(adapter)))


def _head(card: Path) -> dict[str, Any]:
    return yaml.safe_load(card.read_text().split("---\n")[1])


def _evaluate(runs: Path, name: str, sha256: str, value: float) -> Path:
    """Files of an evaluation of one arm with these weights."""
    directory = runs / name / "evaluation"
    directory.mkdir(parents=True)
    with JsonlWriter(directory / "samples.jsonl") as writer:
        writer.write({"task_id": "a", "model": "zero-shot", "adapter_sha256": None})
        writer.write({"task_id": "a", "model": "mine", "adapter_sha256": sha256})
    entry = {"value": value, "low": value - 0.1, "high": None}
    metrics = {"dataset_sha256": "d" * 64, "n_problems": 7, "n_clusters": 3, "n_samples": 4, "confidence": 0.9,
               "selector": "logprob", "models": {"mine": {"pass_at_k": {"1": entry}}, "zero-shot": {}}}  # fmt: skip
    (directory / "metrics.json").write_text(json.dumps(metrics))
    return runs / name


@pytest.mark.parametrize(
    ("options", "source"),
    [([], "adapter"), (["--best"], "best"), (["--version", "2"], "versions/2")],
)
def test_the_adapter_is_byte_equal_and_loads_on_its_base(
    options: list[str], source: str, finished: Path, base: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out" / "adapter"
    assert main([str(finished), "--adapter", str(out), *options]) == 0
    content, config = read_adapter(out, base_fingerprint(base))
    assert content == (finished / source / "adapter_model.safetensors").read_bytes()
    assert config["base_model_name_or_path"] is None  # no directory of this machine
    assert torch.equal(_with_adapter(base, out), _with_adapter(base, finished / source))
    assert sorted(file.name for file in out.iterdir()) == [
        "README.md", "adapter_config.json", "adapter_model.safetensors", "polyray.json",
    ]  # fmt: skip


def test_the_merged_model_answers_like_base_and_adapter(finished: Path, base: Path, tmp_path: Path) -> None:
    out = tmp_path / "merged"
    assert main([str(finished), "--merged", str(out)]) == 0
    merged = _logits(load_base(out, "float32"))
    expected = _with_adapter(base, finished / "adapter")
    assert (merged - expected).abs().max() < 1e-5
    assert (merged - _logits(load_base(base, "float32"))).abs().max() > 0.1
    assert load_tokenizer(out).get_vocab() == load_tokenizer(base).get_vocab()
    manifest = json.loads((out / "polyray.json").read_text())
    assert manifest["merged_from"] == base_fingerprint(base)
    assert manifest["base_sha256"] == base_fingerprint(out)
    assert os.stat(out / "model.safetensors").st_mode & 0o777 == 0o644


def test_another_dtype_is_in_the_weights_the_config_and_the_card(
    finished: Path, base: Path, tmp_path: Path
) -> None:
    out = tmp_path / "merged"
    main([str(finished), "--merged", str(out), "--dtype", "bfloat16"])
    weights, exact = load_file(out / "model.safetensors"), tmp_path / "exact"
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"
    main([str(finished), "--merged", str(exact)])
    full, original = load_file(exact / "model.safetensors"), load_file(base / "model.safetensors")
    changed = [name for name in full if not torch.equal(full[name], original[name])]
    assert len(changed) == 7
    lost = sum(float((weights[name].float() - full[name]).square().sum()) for name in changed) ** 0.5
    moved = sum(float((full[name] - original[name]).square().sum()) for name in changed) ** 0.5
    assert f"lost by rounding to bfloat16 | {lost / moved:.1%} of" in (out / "README.md").read_text()


def test_a_base_in_several_files_keeps_them(finished: Path, base: Path, tmp_path: Path) -> None:
    tensors = load_file(base / "model.safetensors")
    names = sorted(tensors)
    parts = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    run_base = tmp_path / "split"
    run_base.mkdir()
    for file in base.iterdir():
        if file.suffix != ".safetensors":
            (run_base / file.name).write_bytes(file.read_bytes())
    for file, held in parts.items():
        save_file({name: tensors[name] for name in held}, run_base / file, metadata={"format": "pt"})
    index = {"metadata": {"total_size": 1}, "weight_map": {n: f for f, held in parts.items() for n in held}}
    (run_base / "model.safetensors.index.json").write_text(json.dumps(index))
    values = json.loads((finished / "config.json").read_text())
    values["model"]["path"] = str(run_base)
    (finished / "config.json").write_text(json.dumps(values))
    _save(run_base, finished / "adapter", 0.05)
    out = tmp_path / "merged"
    main([str(finished), "--merged", str(out), "--dtype", "bfloat16"])
    for file, held in parts.items():
        assert sorted(load_file(out / file)) == held
    size = json.loads((out / "model.safetensors.index.json").read_text())["metadata"]["total_size"]
    assert size == sum(2 * tensor.numel() for tensor in tensors.values())


def test_the_card_says_base_data_configuration_and_version(
    finished: Path, base: Path, tmp_path: Path
) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "1"}\n')
    values = json.loads((finished / "config.json").read_text())
    values["task"] = {"type": "jsonl", "path": str(prompts), "held_out_path": str(tmp_path / "gone.jsonl")}
    values["reward"] = {"type": "http", "url": "http://inner.example:9000"}
    (finished / "config.json").write_text(json.dumps(values))
    (base / "README.md").write_text(CARD)
    (base / "LICENSE").write_text("the base's own terms")
    out = tmp_path / "merged"
    main([str(finished), "--merged", str(out)])
    card = (out / "README.md").read_text()
    head = _head(out / "README.md")
    assert head["license"] == "apache-2.0"
    assert head["library_name"] == "transformers"
    assert head["tags"] == ["polyray", "lora", "polychromic", "pairwise"]
    assert "base_model" not in head  # a directory has no name on a hub
    assert (out / "LICENSE").read_text() == "the base's own terms"
    sha256 = hashlib.sha256(prompts.read_bytes()).hexdigest()
    now = "as the file is at this export; the run recorded none"
    assert f"| task.path (prompts.jsonl) | `{sha256} {now}` |" in card
    assert (
        "| task.held_out_path (gone.jsonl) | `no such file at this export; the run recorded none` |" in card
    )
    assert "reward_mean 0.25" in card
    assert "no evaluation of these weights" in card
    assert "diversity_weight: 0.5" in card
    assert "inner.example" not in card
    assert str(tmp_path) not in card


def test_the_card_certifies_the_data_as_they_were_when_the_run_began(finished: Path, tmp_path: Path) -> None:
    files = {"train": tmp_path / "a" / "data.jsonl", "validation": tmp_path / "b" / "data.jsonl"}
    for key, file in files.items():
        file.parent.mkdir()
        file.write_text(f"{key} as it was")
    values = json.loads((finished / "config.json").read_text())
    values["data"] = {"type": "jsonl", **{key: str(file) for key, file in files.items()}}
    (finished / "config.json").write_text(json.dumps(values))
    record_data(finished / "data.json", values)
    files["train"].write_text("never trained on")
    files["validation"].unlink()
    main([str(finished), "--adapter", str(tmp_path / "out")])
    card = (tmp_path / "out" / "README.md").read_text()
    for key in files:
        sha256 = hashlib.sha256(f"{key} as it was".encode()).hexdigest()
        assert f"| data.{key} (data.jsonl) | `{sha256}` |" in card


def test_a_run_that_is_being_made_longer_has_no_final_adapter(finished: Path, tmp_path: Path) -> None:
    """Finished at 6 steps, started again with 100, and at step 40."""
    (finished / "DONE").unlink()
    values = json.loads((finished / "config.json").read_text())
    values["learner"]["steps"] = 100
    (finished / "config.json").write_text(json.dumps(values))
    with JsonlWriter(finished / "metrics.jsonl") as writer:
        writer.write({"step": 40, "reward_mean": 0.9})
    with pytest.raises(
        ConfigError,
        match=r"tiny has not come to its end \(DONE is not there\): .*adapter is the adapter of an earlier, shorter "
        r"run; start its command again and let it end or --best or --version 2$",
    ):
        main([str(finished), "--adapter", str(tmp_path / "out")])
    main([str(finished), "--adapter", str(tmp_path / "out"), "--best"])
    card = (tmp_path / "out" / "README.md").read_text()
    assert "the best one of its run, which had not ended: 41 steps were done; exported by" in card


def test_an_evaluation_of_a_reward_model_beside_the_run_is_passed_over(
    finished: Path, tmp_path: Path
) -> None:
    other = finished.parent / "reward" / "evaluation"
    other.mkdir(parents=True)
    (other / "metrics.json").write_text('{"n_pairs": 3}')
    assert main([str(finished), "--adapter", str(tmp_path / "out")]) == 0


@pytest.mark.parametrize("target", ["file/out", "file/deeper/out"])
def test_a_target_that_cannot_be_made_is_named(target: str, finished: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        ConfigError, match=rf"{target} cannot be made \(.*give a directory below one that you"
    ):
        main([str(finished), "--adapter", str(tmp_path / target)])


def test_a_base_of_the_hub_is_named(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    values = json.loads((finished / "config.json").read_text())
    values["model"]["path"] = "Qwen/Qwen3-8B"
    (finished / "config.json").write_text(json.dumps(values))
    out = tmp_path / "adapter"
    main([str(finished), "--adapter", str(out)])
    head = _head(out / "README.md")
    assert (head["base_model"], head["base_model_relation"]) == ("Qwen/Qwen3-8B", "adapter")
    assert (head["library_name"], "license" in head) == ("peft", False)
    config = json.loads((out / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "Qwen/Qwen3-8B"


def test_an_adapter_trained_on_4_bits_is_merged_into_the_stored_base_and_the_card_says_so(
    finished: Path, base: Path, tmp_path: Path
) -> None:
    config = finished / "config.json"
    values = json.loads(config.read_text(encoding="utf-8"))
    values["model"]["quantization"] = "nf4"
    config.write_text(json.dumps(values), encoding="utf-8")
    assert main([str(finished), "--adapter", str(tmp_path / "adapter")]) == 0
    assert main([str(finished), "--merged", str(tmp_path / "model")]) == 0
    expected = _with_adapter(base, finished / "adapter")
    assert (_logits(load_base(tmp_path / "model", "float32")) - expected).abs().max() < 1e-5
    cards = [(tmp_path / name / "README.md").read_text(encoding="utf-8") for name in ("adapter", "model")]
    assert all(
        "| base while it was trained | nf4 (4 bits), computing in bfloat16 |" in card for card in cards
    )
    assert ["not exactly the policy that was trained" in card for card in cards] == [False, True]


def test_an_adapter_on_a_merged_warm_start_says_that_its_base_is_not_published(
    finished: Path, base: Path, tmp_path: Path
) -> None:
    values = json.loads((finished / "config.json").read_text())
    values["model"] |= {
        "warm_start": str(finished / "versions" / "2"),
        "warm_start_mode": "merge_then_fresh",
        "cache_dir": str(tmp_path / "cache"),
    }
    (finished / "config.json").write_text(json.dumps(values))
    merged_base = resolve_base(ModelSpec.model_validate(values["model"])).directory
    _save(merged_base, finished / "adapter", 0.05)
    main([str(finished), "--merged", str(tmp_path / "model")])
    expected = _with_adapter(merged_base, finished / "adapter")
    assert (_logits(load_base(tmp_path / "model", "float32")) - expected).abs().max() < 1e-5
    values["model"]["path"] = "Qwen/Qwen3-8B"
    (finished / "config.json").write_text(json.dumps(values))
    main([str(finished), "--adapter", str(tmp_path / "adapter")])
    assert "base_model" not in _head(tmp_path / "adapter" / "README.md")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] is None
    assert "`Qwen/Qwen3-8B` with a warm start merged into it" in (tmp_path / "adapter/README.md").read_text()


def test_the_evaluation_of_exactly_these_weights_is_found(finished: Path, tmp_path: Path) -> None:
    final, best = (
        json.loads((finished / name / "polyray.json").read_text())["adapter_sha256"]
        for name in ("adapter", "best")
    )
    _evaluate(finished.parent, "of-best", best, 0.75)
    _evaluate(finished.parent, "of-final", final, 0.5)
    for options, row in (
        ([], "| pass_at_1 | 0.5 | [0.4, not measured] |"),
        (["--best"], "| pass_at_1 | 0.75 |"),
    ):
        out = tmp_path / f"out{len(options)}"
        main([str(finished), "--adapter", str(out), *options])
        card = (out / "README.md").read_text()
        assert row in card
        assert "7 held-out prompts in 3 clusters" in card
    with pytest.raises(ConfigError, match="of-best did not evaluate the final adapter"):
        main(
            [
                str(finished),
                "--adapter",
                str(tmp_path / "no"),
                "--evaluation",
                str(finished.parent / "of-best"),
            ]
        )


def test_export_over_an_existing_directory_is_refused(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(ConfigError, match="mine exists; an export replaces nothing"):
        main([str(finished), "--adapter", str(tmp_path / "mine")])
    assert list((tmp_path / "mine").iterdir()) == []


def test_nothing_is_left_of_an_export_that_fails(finished: Path, base: Path, tmp_path: Path) -> None:
    config = json.loads((base / "config.json").read_text())
    values = json.loads((finished / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"quantization_config": {"bits": 4}}))
    _save_manifest(finished / "adapter", base)
    (finished / "config.json").write_text(json.dumps(values))
    out = tmp_path / "merged"
    with pytest.raises(ConfigError, match="is quantised and cannot be merged into"):
        main([str(finished), "--merged", str(out)])
    assert not out.exists()
    assert not list(tmp_path.glob(".merged*"))


def _save_manifest(adapter: Path, base: Path) -> None:
    manifest = json.loads((adapter / "polyray.json").read_text())
    (adapter / "polyray.json").write_text(json.dumps(manifest | {"base_sha256": base_fingerprint(base)}))


def test_a_run_without_the_adapter_is_named_with_what_it_has(finished: Path, tmp_path: Path) -> None:
    out = ["--adapter", str(tmp_path / "out")]
    with pytest.raises(
        ConfigError, match=r"tiny has no version 9 adapter .* there is the final one, --best, --version 2"
    ):
        main([str(finished), *out, "--version", "9"])
    with pytest.raises(ConfigError, match=r"base is not a run: config.json is missing; give a directory"):
        (tmp_path / "base" / "config.json").unlink()
        main([str(tmp_path / "base"), *out])
    empty = tmp_path / "runs" / "empty"
    empty.mkdir()
    (empty / "config.json").write_text((finished / "config.json").read_text())
    with pytest.raises(ConfigError, match=r"empty has no final adapter .* train it first"):
        main([str(empty), *out])
    (empty / "trials" / "t000-1").mkdir(parents=True)
    (empty / "config.json").write_text('{"name": "empty", "train": "x.yaml"}')
    with pytest.raises(ConfigError, match=r"it is a sweep: give one of its trials, e.g. .*t000-1"):
        main([str(empty), *out])


def test_an_adapter_of_another_base_is_not_merged(finished: Path, base: Path, tmp_path: Path) -> None:
    save_base(base, num_hidden_layers=2)
    with pytest.raises(ConfigError, match="belongs to the base"):
        main([str(finished), "--merged", str(tmp_path / "merged")])
    assert main([str(finished), "--adapter", str(tmp_path / "adapter")]) == 0  # which needs no base


def test_check_writes_nothing(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(finished), "--merged", str(tmp_path / "out"), "--best", "--check"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["kind"], plan["adapter"], plan["evaluation"]) == ("merged", str(finished / "best"), None)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--adapter", "a", "--merged", "b"], "not allowed with"),
        ([], "one of the arguments --adapter --merged is required"),
        (["--adapter", "a", "--dtype", "float32"], "--dtype belongs to --merged"),
        (["--adapter", "a", "--public"], "--public belongs to --push"),
        (["--adapter", "a", "--push", "nobody"], "names are OWNER/NAME"),
        (["--adapter", "a", "--push", "me/x"], "set HF_TOKEN in the environment"),
    ],
)
def test_contradicting_options_are_refused(
    options: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with pytest.raises(ConfigError, match=message):
        main([str(tmp_path / "run"), *options])


class _Hub:
    """Instead of huggingface_hub.HfApi."""

    calls: list[tuple[str, Any]]
    refuses = False
    visibility: str | None = None
    """Of a repository that is there; None: there is none."""

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


@pytest.mark.parametrize("public", [False, True])
def test_a_push_is_private_unless_asked_and_shows_no_token(
    public: bool,
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    hub = type("Hub", (_Hub,), {"calls": []})
    monkeypatch.setattr("huggingface_hub.HfApi", hub)
    monkeypatch.setenv("HF_TOKEN", "hf_planted_secret")
    out = tmp_path / "out"
    main([str(finished), "--adapter", str(out), "--push", "me/tiny", *(["--public"] if public else [])])
    assert hub.calls == [
        ("token", "hf_planted_secret"),
        ("me/tiny", {"private": not public, "exist_ok": True}),
        ("me/tiny", ["README.md", "adapter_config.json", "adapter_model.safetensors", "polyray.json"]),
    ]
    shown = capsys.readouterr()
    assert "pushed    https://hub.example/me/tiny" in shown.out
    written = "".join(file.read_text(errors="replace") for file in out.iterdir())
    assert "hf_planted_secret" not in shown.out + shown.err + written


def test_a_hub_that_refuses_leaves_the_export_and_no_token_in_the_error(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.HfApi", type("Hub", (_Hub,), {"calls": [], "refuses": True}))
    monkeypatch.setenv("HF_TOKEN", "hf_planted_secret")
    with pytest.raises(
        ConfigError, match=r"the hub refused me/tiny \(OSError: 403: token \*\*\* may not"
    ) as caught:
        main([str(finished), "--adapter", str(tmp_path / "out"), "--push", "me/tiny"])
    assert "hf_planted_secret" not in str(caught.value)
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize("kind", ["--adapter", "--merged"])
def test_a_push_that_failed_is_repeated_by_the_same_command(
    kind: str,
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    hub = type("Hub", (_Hub,), {"calls": [], "refuses": True})
    monkeypatch.setattr("huggingface_hub.HfApi", hub)
    monkeypatch.setenv("HF_TOKEN", "hf_planted_secret")
    out = tmp_path / "out"
    command = [str(finished), kind, str(out), "--push", "me/tiny"]
    with pytest.raises(ConfigError, match=r"is complete in .*out: start the same command again"):
        main(command)
    written = {file.name: file.read_bytes() for file in out.iterdir()}
    hub.refuses = False
    assert main(command) == 0
    assert f"exported  {out} before, unchanged since" in capsys.readouterr().out
    assert hub.calls[-1] == ("me/tiny", sorted(written))
    assert {file.name: file.read_bytes() for file in out.iterdir()} == written
    assert str(tmp_path) not in (out / "polyray.json").read_text()


@pytest.mark.parametrize(
    ("options", "change", "why"),
    [
        (["--best"], None, "its adapter is final, asked for is best"),
        ([], "README.md", "README.md changed since it was written"),
        ([], "notes.txt", "notes.txt changed since it was written"),
        ([], "polyray.json", "no export is recorded in its polyray.json"),
    ],
)
def test_only_an_unchanged_export_of_the_same_command_is_pushed(
    options: list[str],
    change: str | None,
    why: str,
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hub = type("Hub", (_Hub,), {"calls": []})
    monkeypatch.setattr("huggingface_hub.HfApi", hub)
    monkeypatch.setenv("HF_TOKEN", "hf_planted_secret")
    out = tmp_path / "out"
    main([str(finished), "--adapter", str(out)])
    if change is not None:
        (out / change).write_text("{}")
    with pytest.raises(
        ConfigError, match=re.escape(f"is not what would be pushed ({why}); an export replaces")
    ):
        main([str(finished), "--adapter", str(out), "--push", "me/tiny", *options])
    assert hub.calls == []


@pytest.mark.parametrize(
    ("options", "visibility", "message"),
    [
        (
            [],
            "public",
            "me/tiny exists already and is public, for all to see; nothing was sent: add --public",
        ),
        (
            ["--public"],
            "private",
            "me/tiny exists already and is private; nothing was sent: leave --public out",
        ),
    ],
)
def test_a_repository_that_is_there_is_of_the_kind_that_was_asked_for(
    options: list[str],
    visibility: str,
    message: str,
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hub = type("Hub", (_Hub,), {"calls": [], "visibility": visibility})
    monkeypatch.setattr("huggingface_hub.HfApi", hub)
    monkeypatch.setenv("HF_TOKEN", "hf_planted_secret")
    with pytest.raises(ConfigError, match=message):
        main([str(finished), "--adapter", str(tmp_path / "out"), "--push", "me/tiny", *options])
    assert [name for name, _ in hub.calls] == ["token", "me/tiny"], "nothing was uploaded"
