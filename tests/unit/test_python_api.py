"""The Python API: configurations that it builds, functions that it ships, errors of arguments."""

from __future__ import annotations

import functools
import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import pytest
from pydantic import TypeAdapter

import polyray
from polyray.config.base import as_json
from polyray.config.loader import build_config, load_config
from polyray.config.paths import REPOSITORY_ROOT
from polyray.config.run import EvaluateConfig, SftConfig, TrainConfig
from polyray.errors import DataError
from polyray.rewards import RewardPlan, plan_reward
from polyray.rewards.base import ScoreItem
from polyray.tasks import build_task

PROMPTS = [{"prompt": "01|2=", "reference": "2"}, {"prompt": "02|4=", "reference": "4"}]
CELL = """
import polyray

BONUS = 0.25

def make(bonus):
    def reward(items):
        return [
            {"score": (item["completion"].strip() == item["reference"]) * (1 - bonus), "class": item["completion"]}
            for item in items
        ]
    return reward

run = polyray.train(model="embedded", prompts=PROMPTS, reward=make(BONUS),
                    algorithm={"type": "polychromic", "objective": "cluster", "set_size": 4}, steps=20)
"""


@pytest.fixture
def configs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """Configurations that would have been run, in a fresh working directory."""
    found: list[Any] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", "")
    for name in ("train.run_training", "sft.run_sft", "evaluate.run_evaluate"):
        monkeypatch.setattr(f"polyray.launch.{name}", found.append)
    return found


def trained(configs: list[Any], **arguments: Any) -> Any:
    polyray.train(**arguments)
    return configs[-1]


def test_import_is_light_and_fast_and_has_every_name() -> None:
    code = (
        "import time; start = time.perf_counter(); import polyray, sys; took = time.perf_counter() - start\n"
        "print(took, *sorted({'torch', 'ray', 'pydantic', 'numpy', 'yaml'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code]
    runs = [subprocess.run(command, cwd=REPOSITORY_ROOT, capture_output=True, check=True) for _ in range(3)]
    words = [run.stdout.split() for run in runs]
    assert [heavy for _, *heavy in words] == [[], [], []]
    assert min(float(took) for took, *_ in words) < 0.05
    assert all(getattr(polyray, name) is not None for name in polyray.__all__)
    assert set(polyray.__all__) <= set(dir(polyray))
    with pytest.raises(AttributeError, match="trian"):
        polyray.trian  # type: ignore[attr-defined]  # noqa: B018


def test_notebook_cell_builds_the_command_lines_configuration(configs: list[Any], tmp_path: Path) -> None:
    namespace: dict[str, Any] = {"__name__": "__main__", "PROMPTS": PROMPTS}
    exec(compile(CELL, "<ipython-input-3-77>", "exec"), namespace)
    [config] = configs
    assert namespace["run"] == polyray.Run(tmp_path / "runs" / "train")
    values = {
        "name": "train",
        "task": {"type": "jsonl", "path": config.task.path},
        "reward": {"type": "callable", "name": "make.<locals>.reward", "sha256": config.reward.sha256},
        "algorithm": {"type": "polychromic", "objective": "cluster", "set_size": 4, "diversity_weight": 1.0},
        "learner": {"steps": 20},
    }
    assert config == build_config(TrainConfig, values)
    text = json.dumps(as_json(config))
    assert len(text) < 20_000 and build_config(TrainConfig, json.loads(text)) == config
    assert Path(config.task.path).is_relative_to(tmp_path / "runs" / ".prompts")
    task = build_task(config.task)
    asked = [task.training_prompt(0, 0), *task.held_out_prompts()]
    assert sorted((prompt.text, prompt.reference) for prompt in asked) == [("01|2=", "2"), ("02|4=", "4")]
    reward = plan_reward(config.reward, config.task).build()
    scores = reward.score([ScoreItem("01|2=", " 2", "2"), ScoreItem("01|2=", "3", "2")])
    assert [score.score for score in scores] == [0.75, 0.0] and scores[0].class_id != scores[1].class_id

    exec(compile(f"# run again\n{CELL}", "<ipython-input-9-88>", "exec"), namespace)
    assert configs[1] == config
    exec(compile(CELL.replace("BONUS = 0.25", "BONUS = 0.5"), "<ipython-input-10-99>", "exec"), namespace)
    assert configs[2].reward.sha256 != config.reward.sha256


def test_sections_dotted_keys_and_short_forms_reach_the_same_keys(configs: list[Any]) -> None:
    given = {"group_size": 8, "prompts_per_step": 2}
    same = {"name": "a", "seed": 2}
    first = trained(configs, algorithm="grpo", rollout=given, steps=3, runs_dir=Path("there"), **same)
    keys = {"rollout.group_size": 8, "rollout.prompts_per_step": 2, "learner.steps": 3}
    second = trained(configs, runs_dir="there", dotted={**keys, "algorithm": {"type": "grpo"}}, **same)
    assert first == second and first.run_dir == Path("there/a").absolute() and first.rollout.group_size == 8


def test_yaml_file_is_a_base_that_arguments_change(configs: list[Any]) -> None:
    path = "configs/own_task/embedded/train.yaml"
    polyray.train(path, steps=3, reward="mine.py:score", rollout={"group_size": 12})
    overrides = ["learner.steps=3", "reward={type: python, path: mine.py:score}", "rollout.group_size=12"]
    assert configs[0] == load_config(TrainConfig, path, overrides)
    path = "configs/evaluate/hidden_trap_grid.yaml"
    polyray.evaluate(path, num_samples=32, adapters={"base": None}, compare_to="base")
    expected = load_config(EvaluateConfig, path, ["evaluation.num_samples=32", "compare_to=base"])
    assert configs[1].evaluation == expected.evaluation and configs[1].name == expected.name
    assert configs[1].adapters["base"].adapter is None


@pytest.mark.parametrize("kind", ["dataset", "parquet", "saved", "jsonl"])
def test_prompts_of_any_kind_are_the_same_prompts(configs: list[Any], tmp_path: Path, kind: str) -> None:
    table = datasets.Dataset.from_list(PROMPTS)
    table.to_parquet(str(tmp_path / "p.parquet"))
    table.save_to_disk(str(tmp_path / "saved"))
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PROMPTS))
    files = {"parquet": "p.parquet", "saved": tmp_path / "saved", "jsonl": Path("p.jsonl")}
    prompts = {"dataset": table, **files}
    config = trained(configs, prompts=prompts[kind], task={"split_seed": 3})
    task = build_task(config.task)
    asked = [task.training_prompt(0, 0), *task.held_out_prompts()]
    assert sorted((prompt.text, prompt.reference) for prompt in asked) == [("01|2=", "2"), ("02|4=", "4")]
    assert config.task.split_seed == 3


def test_evaluation_reads_where_it_is_called_and_asks_all_of_its_prompts(
    configs: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained(configs, prompts=PROMPTS, reward="mine.py:score", name="first")
    run.run_dir.mkdir(parents=True)
    (run.run_dir / "config.json").write_text(json.dumps(as_json(run)))
    rows = [{"prompt": f"{number}|2=", "reference": "2"} for number in range(10, 30)]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    (elsewhere / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for prompts in (rows, "asked.jsonl"):
        polyray.evaluate(str(run.run_dir), prompts=prompts, runs_dir="out")
        evaluation = configs[-1]
        assert evaluation.run_dir == elsewhere / "out" / "first-evaluation"
        assert evaluation.reward == run.reward, "the paths of the run stay its own"
        asked = build_task(evaluation.task).held_out_prompts()
        assert [prompt.text for prompt in asked] == [row["prompt"] for row in rows]
    polyray.evaluate(str(run.run_dir), prompts=PROMPTS)
    with pytest.raises(DataError, match="must not be trained on"):
        build_task(configs[-1].task)


def test_equal_prompts_are_written_once(configs: list[Any], tmp_path: Path) -> None:
    first, again = (trained(configs, prompts=PROMPTS) for _ in range(2))
    more = datasets.Dataset.from_list([*PROMPTS, {"prompt": "03|6=", "reference": None}])
    other = trained(configs, prompts=more)
    assert first.task == again.task != other.task
    assert len(list((tmp_path / "runs" / ".prompts").iterdir())) == 2
    assert Path(other.task.path).read_text().splitlines()[2] == '{"prompt": "03|6="}'


def test_function_may_be_a_part_of_a_reward_and_have_settings(configs: list[Any]) -> None:
    def length(items: list[dict[str, Any]]) -> list[float]:
        return [len(item["completion"]) / 10 for item in items]

    part = {"name": "length", "reward": {"function": length, "deterministic": True}, "weight": 2.0}
    config = trained(
        configs, prompts=PROMPTS, reward={"type": "composite", "parts": [part]}, second_opinion=length
    )
    inner = config.reward.parts[0].reward
    assert (inner.type, inner.deterministic, inner.sha256) == ("callable", True, config.second_opinion.sha256)


def test_sft_takes_rows_and_a_finished_run_is_evaluated(configs: list[Any], tmp_path: Path) -> None:
    polyray.sft(data=[{"prompt": "1+1=", "completion": "2"}], steps=2, dotted={"learner.num_threads": 1})
    [config] = configs
    assert isinstance(config, SftConfig) and config.data.type == "jsonl" and config.learner.steps == 2
    assert Path(config.data.train).read_text() == '{"prompt": "1+1=", "completion": "2"}\n'


def test_evaluation_of_a_run_has_its_model_task_and_reward(configs: list[Any], tmp_path: Path) -> None:
    config = trained(
        configs, prompts=PROMPTS, reward=lambda items: [1.0 for _ in items], rollout={"temperature": 0.5},
        model={"warm_start": "runs/sft/adapter", "lora": {"rank": 4}},
    )  # fmt: skip
    (tmp_path / "runs" / "train").mkdir(parents=True)
    (tmp_path / "runs" / "train" / "config.json").write_text(json.dumps(as_json(config)))
    polyray.evaluate(polyray.Run(config.run_dir), ks=[1, 32])
    polyray.evaluate("runs/train", num_samples=8, ks=[2], reward={"type": "verifier"}, name="strict")
    first, second = configs[1:]
    assert isinstance(first, EvaluateConfig) and first.run_dir == tmp_path / "runs" / "train-evaluation"
    shared = ("model", "task", "reward", "rollout", "delivery", "seed", "ray")
    assert all(getattr(first, key) == getattr(config, key) for key in shared)
    places = {"warm start": f"{tmp_path}/runs/sft/adapter", "trained": f"{tmp_path}/runs/train/adapter"}
    assert {name: arm.adapter for name, arm in first.adapters.items()} == places
    assert (first.compare_to, first.evaluation.ks) == ("warm start", (1, 32))
    assert first.evaluation.num_samples == 32
    assert (second.name, second.evaluation.num_samples, second.reward.type) == ("strict", 8, "verifier")
    with pytest.raises(polyray.ConfigError, match=r"config\.json"):
        polyray.evaluate(tmp_path / "runs" / "nothing")


def test_evaluation_result_gives_plain_values(tmp_path: Path) -> None:
    directory = tmp_path / "evaluation"
    directory.mkdir()
    entry = {"1": {"value": 0.25, "low": 0.1, "high": 0.4}}
    names = ("pass_at_k", "distinct_correct_at_k", "usq_at_k")
    metrics = {
        "models": {"base": dict.fromkeys(names, entry)},
        "n_problems": 3, "n_clusters": 2, "n_samples": 8, "confidence": 0.95, "selector": "logprob",
    }  # fmt: skip
    (directory / "metrics.json").write_text(json.dumps(metrics))
    result = polyray.Evaluation(tmp_path)
    assert result.pass_at_k == result.distinct_correct_at_k == result.usq_at_k == {"base": {1: 0.25}}
    assert "base   0.250 [0.100, 0.400]" in str(result) and result.samples == directory / "samples.jsonl"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stepz": 3}, "'stepz'"),
        ({"rollout": {"group_sise": 8}}, "'rollout.group_size'"),
        ({"steps": 0}, "learner.steps=0"),
        ({"prompts": {"prompt": "1+1="}}, "prompts is a dict"),
        ({"prompts": ["1+1="]}, r"prompts\[0\].*\bstr\b"),
        ({"prompts": [{"prompt": {1, 2}}]}, r"prompts\[0\].*JSON"),
        ({"reward": "mine.py"}, "FILE.py:FUNCTION"),
        ({"reward": {"type": "callable", "name": "f", "sha256": "abc"}}, "reward.sha256"),
    ],
)
def test_wrong_argument_is_a_config_error_that_names_it(
    configs: list[Any], arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(polyray.PolyrayError, match=message) as raised:
        polyray.train(**arguments)
    assert isinstance(raised.value, polyray.ConfigError) and configs == []


def test_function_of_an_own_module_needs_no_import_in_a_replica(
    configs: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    module = f"own_{tmp_path.parent.name.replace('-', '_')}"
    (tmp_path / f"{module}.py").write_text(
        "SCALE = 4\ndef half(text):\n    return len(text) / SCALE\n"
        "def score(items):\n    return [half(item['completion']) for item in items]\n"
    )
    config = trained(configs, prompts=PROMPTS, reward=importlib.import_module(module).score)
    plan = TypeAdapter(RewardPlan).dump_json(plan_reward(config.reward, config.task))
    code = (
        "import sys\nfrom pydantic import TypeAdapter\nfrom polyray.rewards import RewardPlan\n"
        "from polyray.rewards.base import ScoreItem\n"
        "plan = TypeAdapter(RewardPlan).validate_json(sys.stdin.read())\n"
        "print(plan.build().score([ScoreItem('01|2=', 'RL', '2')])[0].score)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=plan, cwd=REPOSITORY_ROOT, env={"PYTHONPATH": str(REPOSITORY_ROOT)}, capture_output=True, check=False,
    )  # fmt: skip
    assert done.stdout.decode().strip() == "0.5", done.stderr.decode()


def test_cached_function_of_a_cell_is_shipped_without_its_cache(configs: list[Any]) -> None:
    source = (
        "import functools\n@functools.lru_cache(maxsize=8)\ndef half(n):\n    return n / 2\n"
        "def reward(items):\n    return [half(len(item['completion'])) for item in items]\n"
    )
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(source, "<cell>", "exec", dont_inherit=True), namespace)
    first = trained(configs, prompts=PROMPTS, reward=namespace["reward"])
    assert namespace["half"](1) == 0.5  # fills the cache
    again = trained(configs, prompts=PROMPTS, reward=namespace["reward"])
    assert again.reward == first.reward
    reward = plan_reward(first.reward, first.task).build()
    assert reward.score([ScoreItem("01|2=", "R", "2")])[0].score == 0.5
    namespace["half"] = functools.lru_cache(maxsize=8)(lambda n: n / 4)
    namespace["half"].__wrapped__.__module__ = namespace["half"].__module__ = "__main__"
    assert trained(configs, prompts=PROMPTS, reward=namespace["reward"]).reward.sha256 != first.reward.sha256


def test_function_that_cannot_be_pickled_is_a_config_error(configs: list[Any], tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as log, pytest.raises(polyray.ConfigError, match="inside"):
        polyray.train(prompts=PROMPTS, reward=lambda items: [log.write("x") for _ in items])


def test_missing_embedded_model_names_the_command_that_builds_it(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(polyray.MissingFile, match="polyray pretrain"):
        model = {"path": "embedded", "cache_dir": str(tmp_path)}
        polyray.train(model=model, prompts=PROMPTS, reward=lambda items: [0.0])


@pytest.mark.parametrize(
    ("file", "target"),
    [
        ("configs/serve/generation.yaml", "serve.open_generation"),
        ("configs/serve/reward.yaml", "serve.open_reward_models"),
    ],
)
def test_service_runs_until_it_is_closed(
    configs: list[Any], monkeypatch: pytest.MonkeyPatch, file: str, target: str
) -> None:
    closed: list[bool] = []

    @contextmanager
    def opened(config: Any) -> Iterator[Any]:
        configs.append(config)
        yield SimpleNamespace(url="http://127.0.0.1:1"), None
        closed.append(True)

    monkeypatch.setattr(f"polyray.launch.{target}", opened)
    with polyray.serve(file, name="mine", dotted={"ray.num_cpus": 3}) as service:
        assert service.url == "http://127.0.0.1:1" and closed == []
    assert closed == [True]
    assert (configs[0].name, configs[0].ray.num_cpus) == ("mine", 3)


def test_sweep_plans_trials_of_its_file(configs: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    plans: list[Any] = []
    monkeypatch.setattr(
        "polyray.sweeps.study.run_sweep", lambda config, found: plans.extend([config, *found])
    )
    found = polyray.sweep("configs/sweep/lambda_seed.yaml", name="mine", seeds=[0, 1])
    assert found.run_dir.name == "mine" and plans[0].seeds == (0, 1)
    assert len(plans) - 1 == 2 * len(plans[0].parameters["algorithm.diversity_weight"].grid)


def test_error_of_a_worker_is_raised_as_it_was_there(
    configs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Wrapped(polyray.PolyrayError):
        cause = polyray.RewardError("of the replica")

    def fail(config: Any) -> None:
        error = Wrapped("with Ray's traceback")
        error.log = "error.log"
        raise error

    monkeypatch.setattr("polyray.launch.train.run_training", fail)
    with pytest.raises(polyray.RewardError, match=r"^of the replica$") as raised:
        polyray.train(prompts=PROMPTS)
    assert raised.value.log == "error.log"
