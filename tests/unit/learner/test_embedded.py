"""The embedded base: its size, its tokenizer, what it is trained on; building is cached and repeatable."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from polyray.config.run import PretrainConfig
from polyray.config.task import HiddenTrapGridSpec
from polyray.learner.embedded import build_embedded, build_tokenizer, embedded_dir, pretraining_text
from polyray.models.base_files import base_fingerprint, find_embedded
from polyray.models.loading import load_base
from polyray.models.tokenizer import load_tokenizer
from polyray.tasks.hidden_trap_grid import HiddenTrapGrid, cell_name, split_pairs
from polyray.types import Prompt


def _config(cache_dir: Path, **changes: object) -> PretrainConfig:
    values = {"steps": 2, "batch_rows": 4, "num_threads": 1, "cache_dir": str(cache_dir), **changes}
    return PretrainConfig.model_validate(values)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cache_dir = tmp_path_factory.mktemp("cache")
    build_embedded(_config(cache_dir))
    return cache_dir


def test_embedded_model_is_small_and_loads_like_any_other(cache: Path) -> None:
    directory = find_embedded(cache)
    assert load_base(directory, "float32").num_parameters() == 856_960
    tokenizer = load_tokenizer(directory)
    assert len(tokenizer) == 28
    ids = tokenizer("37|b1>e4=")["input_ids"]
    assert ids == build_tokenizer()("37|b1>e4=")["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "37|b1>e4="
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    seen: list[int] = []
    again = build_embedded(_config(cache, name="other", runs_dir="x"), lambda step, *_: seen.append(step))
    assert (again, seen) == (directory, [])


def test_equal_configurations_build_equal_weights_and_the_last_is_found(cache: Path, tmp_path: Path) -> None:
    fingerprint = base_fingerprint(find_embedded(cache))
    seen: list[tuple[int, int]] = []
    again = build_embedded(_config(tmp_path), lambda step, steps, _: seen.append((step, steps)))
    assert base_fingerprint(again) == fingerprint
    assert seen == [(1, 2), (2, 2)]
    other = build_embedded(_config(tmp_path, seed=1))
    assert base_fingerprint(other) != fingerprint
    assert find_embedded(tmp_path) == other
    assert build_embedded(_config(tmp_path)) == find_embedded(tmp_path) == again
    assert sorted(path.name for path in again.parent.iterdir()) == sorted(
        [again.name, other.name, "embedded.json"]
    )


def test_address_depends_on_inputs_of_the_weights(tmp_path: Path) -> None:
    reference = embedded_dir(_config(tmp_path))
    assert embedded_dir(_config(tmp_path, name="x", task={"salt": "y", "trap_probability": 0.3})) == reference
    changes = [{"steps": 3}, {"batch_rows": 5}, {"learning_rate": 1e-4}, {"num_threads": 2}, {"seed": 1}]
    others = {embedded_dir(_config(tmp_path, **change)) for change in changes}
    others.add(embedded_dir(_config(tmp_path, task={"num_held_out_pairs": 100})))
    assert len(others - {reference}) == 6


def test_pretraining_paths_turn_at_most_once_and_spare_the_held_out_pairs() -> None:
    grid = HiddenTrapGrid(HiddenTrapGridSpec(trap_probability=0.0))
    training, held_out = ({f"{cell_name(a)}>{cell_name(b)}" for a, b in part} for part in split_pairs(200))
    texts = [pretraining_text(index, 0, 200) for index in range(4000)]
    pairs = [prompt[3:8] for prompt, _ in texts]
    assert held_out.isdisjoint(pairs)
    assert sum(pair in training for pair in pairs) / len(pairs) == pytest.approx(0.2, abs=0.05)
    assert all(grid.reward(Prompt("", prompt), answer) == 1.0 for prompt, answer in texts)
    assert {sum(a != b for a, b in pairwise(answer)) for _, answer in texts} == {0, 1}
    assert {len(answer) for _, answer in texts} == set(range(1, 10))
    assert pretraining_text(7, 0, 200) == texts[7] != pretraining_text(7, 1, 200)
