"""Quickstarts with preparations, several SFTs and arms that name one."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import polyray.cli.curate
import polyray.cli.train_reward
import polyray.launch.fleet
from polyray.cli import quickstart
from polyray.config.loader import build_config, load_config
from polyray.config.run import QuickstartConfig
from polyray.data.headlines import packages_by_test, read_headline_tests, story_keys
from polyray.errors import ConfigError, MissingFile
from tests.conftest import REPOSITORY_ROOT

HEADLINES = "configs/quickstart_headlines.yaml"
DATA = REPOSITORY_ROOT / "configs/data/upworthy"
GRID = "configs/train/hidden_trap_grid.yaml"


def plan_of(file: str, *overrides: str) -> quickstart.Plan:
    return quickstart.build_plan(load_config(QuickstartConfig, file, overrides), None, 3)


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("headlines", HEADLINES),
        ("smollm2", "configs/quickstart_smollm2.yaml"),
        ("name=headlines", "name=headlines"),
        ("configs/quickstart.yaml", "configs/quickstart.yaml"),
        ("--check", "--check"),
    ],
)
def test_short_name_stands_for_a_shipped_file(argument: str, expected: str) -> None:
    assert quickstart._file_of(argument) == expected


def test_unknown_short_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="'headlnes'; name one of headlines, smollm2, or a file"):
        quickstart._file_of("headlnes")


def test_arm_starts_from_the_sft_that_it_names(tmp_path: Path) -> None:
    plan = plan_of(HEADLINES, f"runs_dir={tmp_path}")
    runs = tmp_path / "headlines"
    assert {name: sft.run_dir for name, sft in plan.sfts.items()} == {
        "lora": runs / "sft-lora-seed3",
        "polychromic_lora": runs / "sft-polychromic_lora-seed3",
    }
    for name, arm in plan.arms.items():
        assert arm.model.warm_start == str(runs / f"sft-{name.partition('-')[0]}-seed3" / "adapter")


def test_evaluation_has_untrained_arms_of_its_file_then_sfts_then_arms(tmp_path: Path) -> None:
    adapters = plan_of(HEADLINES, f"runs_dir={tmp_path}").evaluate.adapters
    assert list(adapters) == [
        "zero-shot", "few-shot", "lora", "polychromic_lora", "lora-drgrpo", "lora-polychromic",
        "polychromic_lora-drgrpo", "polychromic_lora-polychromic",
    ]  # fmt: skip
    assert adapters["few-shot"].prompt is not None and adapters["few-shot"].adapter is None


def test_single_sft_keeps_its_names(tmp_path: Path) -> None:
    plan = plan_of("configs/quickstart_smollm2.yaml", f"runs_dir={tmp_path}")
    assert plan.sfts["warm start"].run_dir == tmp_path / "smollm2" / "sft-seed3"
    assert list(plan.evaluate.adapters) == ["base", "warm start", "drgrpo", "polychromic"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": {"a": {"train": GRID, "sft": "other"}}}, r"arms\.a\.sft='other'.*warm start"),
        ({"sft": {}}, "sft is empty"),
        ({"sft": {"a": "x.yaml"}}, "'a' names an SFT and an arm"),
        ({"prepare": [{"job": "train", "file": GRID}]}, r"prepare.*job"),
    ],
)
def test_quickstart_with_a_mistake_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_config(QuickstartConfig, {"name": "q", "arms": {"a": GRID}, "baseline_arm": "a"} | changes)


def test_sft_with_samples_of_another_reward_is_refused() -> None:
    other = "sft={lora: configs/sft/headlines_smollm2.yaml, polychromic_lora: configs/sft/headlines_polychromic.yaml}"
    with pytest.raises(ConfigError, match=r"sft\.polychromic_lora and arms\.lora-drgrpo differ"):
        plan_of(HEADLINES, other)


def test_override_of_the_task_that_the_evaluation_lacks_is_refused() -> None:
    override = 'overrides=["task.trap_probability=0.5"]'
    with pytest.raises(ConfigError, match=r"sft\.warm start and arms\.\S+ differ in task.*overrides"):
        plan_of("configs/quickstart.yaml", override)


def test_missing_file_of_a_late_part_is_named_before_the_first_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shipped = (REPOSITORY_ROOT / "configs/evaluate/headlines_smollm2.yaml").read_text()
    Path("evaluate.yaml").write_text(shipped.replace("configs/prompts/few_shot.yaml", "no/prompt.yaml"))
    monkeypatch.setattr(quickstart, "_run_seed", lambda *arguments: pytest.fail("a part has started"))
    for option in (["--check"], []):
        with pytest.raises(ConfigError, match=r"no/prompt\.yaml"):
            quickstart.main(["headlines", "evaluate=evaluate.yaml", *option])
    assert not Path("runs").exists()


def test_sft_with_samples_trains_on_the_engines_of_the_arms(monkeypatch: pytest.MonkeyPatch) -> None:
    plan, trained = plan_of(HEADLINES), []
    monkeypatch.setattr(quickstart, "_arm", lambda config, fleet, display: trained.append((config, fleet)))
    fleet, nothing = SimpleNamespace(), SimpleNamespace()
    quickstart._sft(plan.sfts["polychromic_lora"], fleet, nothing, nothing)  # type: ignore[arg-type]
    [(config, found)] = trained
    assert found is fleet and config.supervised is not None
    assert config.name == "sft-polychromic_lora-seed3"


def test_preparations_are_run_first_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(polyray.launch.fleet, "open_ray", lambda *arguments: nullcontext())
    monkeypatch.setattr(polyray.cli.curate, "run_curation", lambda config, *_: done.append(config.name))
    monkeypatch.setattr(
        polyray.cli.train_reward, "run_train_reward", lambda config, *_: done.append(config.name)
    )

    def run_seed(
        plan: quickstart.Plan, await_model: Any, cost: Any, display: Any, parts: int, total: int
    ) -> int:
        done.append(f"seed {plan.seed}: {parts} of {total}")
        return parts + len(plan.sfts) + len(plan.arms) + 1

    monkeypatch.setattr(quickstart, "_run_seed", run_seed)
    monkeypatch.setattr(quickstart, "_finish", lambda *arguments: None)
    assert quickstart.main(["headlines", f"runs_dir={tmp_path}", "seeds=[0, 1]"]) == 0
    assert done == [
        "curate-upworthy", "reward-train-headlines", "reward-eval-headlines", "seed 0: 3 of 17", "seed 1: 10 of 17",
    ]  # fmt: skip


def test_check_accepts_reward_models_that_a_preparation_makes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert quickstart.main(["headlines", "--check"]) == 0
    derived = json.loads(capsys.readouterr().out)["derived"]
    assert [entry["name"] for entry in derived["prepare"]] == [
        "curate-upworthy", "reward-train-headlines", "reward-eval-headlines",
    ]  # fmt: skip
    assert derived["prepare"][0]["sizes"]["records"] > 9000
    with pytest.raises(MissingFile, match="reward-train-headlines/model"):
        quickstart.main(["headlines", "prepare=[]", "--check"])


def test_last_lines_name_the_command_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import polyray.evaluation.summary
    import polyray.report.run_report

    config = load_config(QuickstartConfig, HEADLINES, [f"runs_dir={tmp_path}"])
    plan = quickstart.build_plan(config, None, 0)
    metrics = plan.evaluate.run_dir / "evaluation/metrics.json"
    metrics.parent.mkdir(parents=True)
    metrics.write_text("{}")
    monkeypatch.setattr(polyray.report.run_report, "write_report", lambda paths, out: out)
    monkeypatch.setattr(polyray.evaluation.summary, "summary_table", lambda metrics: "table")
    notes: list[str] = []
    quickstart._finish(config, [plan], SimpleNamespace(note=notes.append), 60.0)  # type: ignore[arg-type]
    [line] = [note for note in notes if note.startswith("choose ")]
    assert "polyray serve" in line and "generation_headlines.yaml" in line
    assert str(plan.arms["lora-polychromic"].run_dir) in line


def test_shipped_headlines_load_and_share_no_story() -> None:
    keys: dict[str, frozenset[str]] = {}
    for part in ("clicks", "policy", "test"):
        found = read_headline_tests(DATA / f"{part}.jsonl.gz")
        assert found.num_dropped == 0
        tests = packages_by_test(found.packages)
        keys[part] = frozenset().union(*(story_keys(packages) for packages in tests.values()))
    assert all(keys.values())
    assert not keys["clicks"] & keys["policy"] and not (keys["clicks"] | keys["policy"]) & keys["test"]


def test_shipped_headlines_have_their_licence_beside_them() -> None:
    licence = (DATA / "LICENSE.md").read_text(encoding="utf-8")
    files = sorted(DATA.glob("*.gz"))
    assert all(file.name in licence for file in files)
    assert sum(file.stat().st_size for file in files) < 1_500_000
    for words in (
        "CC BY 4.0",
        "creativecommons.org/licenses/by/4.0",
        "Matias",
        "Scientific Data 8:195",
        "osf.io/jd64p",
    ):
        assert words in licence
