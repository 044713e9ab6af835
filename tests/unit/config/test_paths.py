"""Paths of configurations: absolute where they are built, and no field that names one is forgotten."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
from pydantic import BaseModel, TypeAdapter

import polyray.config
from polyray.config.generation import GenerationServeConfig
from polyray.config.loader import build_config, load_config
from polyray.config.paths import (
    VALIDATORS,
    BuiltinOrPath,
    FilePath,
    FunctionPath,
    NameOrPath,
    UrlOrPath,
    relative_to,
)
from polyray.config.run import EvaluateConfig, SftConfig, TrainConfig
from polyray.config.sweep import SweepConfig
from polyray.errors import ConfigError
from tests.conftest import REPOSITORY_ROOT

WORDS = ("path", "dir", "file", "directory", "encoder", "folder", "database", "storage")
NO_PATHS = {
    "AdapterSpec.name": "a name in requests",
    "LearnerSpec.checkpoint_storage": "always a URL; anything else is refused",
    "RewardLearnerSpec.checkpoint_storage": "always a URL; anything else is refused",
    "RewardServeConfig.revision": "any text",
}
"""Text fields whose name or description speaks of files, with what they hold instead."""


def config_models() -> list[type[BaseModel]]:
    modules = [
        importlib.import_module(found.name)
        for found in pkgutil.walk_packages(polyray.config.__path__, "polyray.config.")
    ]
    models = {
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, BaseModel) and value.__module__ == module.__name__
    }
    return sorted(models, key=lambda model: f"{model.__module__}.{model.__name__}")


def is_path(annotation: Any, metadata: Any = ()) -> bool:
    found = (*metadata, *getattr(annotation, "__metadata__", ()))
    if any(getattr(item, "func", None) in VALIDATORS for item in found):
        return True
    return any(is_path(argument) for argument in get_args(annotation))


def takes_text(annotation: Any) -> bool:
    if annotation is str or annotation is Path:
        return True
    texts = get_args(annotation) if get_origin(annotation) is not dict else get_args(annotation)[1:]
    return any(takes_text(argument) for argument in texts)


def text_fields() -> Iterator[tuple[str, bool, str]]:
    """(MODEL.FIELD, whether it has a path's type, its name and description)."""
    for model in config_models():
        for name, field in model.model_fields.items():
            if takes_text(field.annotation):
                about = f"{name} {field.description or ''}".lower().replace("_", " ")
                yield f"{model.__name__}.{name}", is_path(field.annotation, field.metadata), about


def test_field_that_names_a_file_has_the_type_of_a_path() -> None:
    fields = list(text_fields())
    assert len(fields) > 100 and sum(is_one for _, is_one, _ in fields) > 50
    other = [name for name, is_one, about in fields if not is_one and any(word in about for word in WORDS)]
    assert other == list(NO_PATHS)


def test_default_section_holds_no_path_of_the_importing_process() -> None:
    def absolute_in(value: Any) -> bool:
        if isinstance(value, BaseModel):
            return any(absolute_in(inner) for _, inner in value)
        return isinstance(value, str) and value.startswith("/")

    sections = {
        f"{model.__name__}.{name}": field.default
        for model in config_models()
        for name, field in model.model_fields.items()
        if isinstance(field.default, BaseModel)
    }
    assert len(sections) > 20
    assert [name for name, default in sections.items() if absolute_in(default)] == []  # use default_factory


@pytest.mark.parametrize(
    ("kind", "written", "expected"),
    [
        (FilePath, "a/../b.jsonl", "/base/b.jsonl"),
        (FilePath, "../b.jsonl", "/b.jsonl"),
        (FilePath, "/abs/b.jsonl", "/abs/b.jsonl"),
        (FilePath, "s3://bucket/b", "s3://bucket/b"),
        (FilePath, "~/b", "/home/me/b"),
        (FilePath, "configs/pretrain.yaml", str(REPOSITORY_ROOT / "configs/pretrain.yaml")),
        (FilePath, "configs/none.yaml", "/base/configs/none.yaml"),
        (BuiltinOrPath, "builtin", "builtin"),
        (BuiltinOrPath, "b.jsonl", "/base/b.jsonl"),
        (NameOrPath, "embedded", "embedded"),
        (NameOrPath, "Qwen/Qwen3-8B", "Qwen/Qwen3-8B"),
        (NameOrPath, "./model", "/base/model"),
        (FunctionPath, "mine.py:score", "/base/mine.py:score"),
        (UrlOrPath, "sqlite:///runs/a.db", "sqlite:////base/runs/a.db"),
        (UrlOrPath, "sqlite:////runs/a.db", "sqlite:////runs/a.db"),
        (UrlOrPath, "sqlite:///:memory:", "sqlite:///:memory:"),
        (UrlOrPath, "postgresql://host/name", "postgresql://host/name"),
        (UrlOrPath, "databricks", "databricks"),
    ],
)
def test_path_is_resolved_once(
    kind: Any, written: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    adapter = TypeAdapter(kind)
    with relative_to("/base"):
        assert adapter.validate_python(written) == expected
    with relative_to("/elsewhere"):
        assert adapter.validate_python(expected) == expected


def test_model_directory_that_exists_is_no_hub_name(tmp_path: Path) -> None:
    (tmp_path / "models" / "mine").mkdir(parents=True)
    with relative_to(str(tmp_path)):
        assert TypeAdapter(NameOrPath).validate_python("models/mine") == str(tmp_path / "models" / "mine")


def test_config_means_the_same_files_in_every_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    here.mkdir()
    elsewhere.mkdir()
    (here / "sft.yaml").write_text(
        "name: a\ntask: {type: jsonl, path: prompts.jsonl}\ndata: {type: jsonl, train: rows.jsonl}\n"
    )
    monkeypatch.chdir(here)
    config = load_config(SftConfig, "sft.yaml")
    monkeypatch.chdir(elsewhere)
    again = SftConfig.model_validate(config.model_dump(mode="json"))
    assert again == config
    assert (again.base_dir, again.runs_dir) == (str(here), str(here / "runs"))
    assert again.task.path == str(here / "prompts.jsonl")  # type: ignore[union-attr]
    assert again.data.train == str(here / "rows.jsonl")  # type: ignore[union-attr]


def test_base_dir_of_a_file_takes_the_place_of_the_commands_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = build_config(TrainConfig, {"name": "a", "base_dir": "mine", "model": {"warm_start": "sft"}})
    assert (config.base_dir, config.model.warm_start) == (str(tmp_path / "mine"), str(tmp_path / "mine/sft"))
    assert config.runs_dir == str(tmp_path / "mine" / "runs")


def test_arms_and_roots_of_collections_are_resolved(tmp_path: Path) -> None:
    with relative_to(str(tmp_path)):
        arms = build_config(EvaluateConfig, {"name": "a", "adapters": {"x": "runs/x", "base": None}}).adapters
        served = build_config(GenerationServeConfig, {"adapters": [{"follow": "runs/first"}]})
    assert (arms["x"].adapter, arms["base"].adapter) == (str(tmp_path / "runs/x"), None)
    assert served.adapter_roots == (str(tmp_path / "runs"),)
    assert served.adapters[0].follow == str(tmp_path / "runs/first")
    assert served.database == f"sqlite:///{tmp_path}/runs/selections.db"


def test_shipped_configuration_is_found_from_any_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = load_config(SweepConfig, "configs/sweep/lambda_seed.yaml")
    assert config.train == str(REPOSITORY_ROOT / "configs/train/hidden_trap_grid.yaml")
    assert config.evaluation.config == str(REPOSITORY_ROOT / "configs/evaluate/hidden_trap_grid.yaml")
    assert config.runs_dir == str(tmp_path / "runs")
    with pytest.raises(ConfigError, match=r"configs/none\.yaml"):
        load_config(SweepConfig, "configs/none.yaml")
