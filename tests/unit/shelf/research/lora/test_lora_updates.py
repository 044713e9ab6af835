"""Adapters read as updates, against the matrices that PEFT makes of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from polyray.errors import ConfigError
from polyray.shelf.research.lora.updates import Adapter, Place, Update, check_one_base, read_adapter_updates
from tests.unit.shelf.research.lora.lora_files import ALPHA, factors, saved


def dense(update: Update) -> np.ndarray:
    return update.left @ update.right


Q, UP = Place(4, "self_attn.q_proj"), Place(11, "mlp.up_proj")


@pytest.mark.parametrize(("use_rslora", "scale"), [(False, ALPHA / 3), (True, ALPHA / np.sqrt(3))])
def test_update_is_scale_times_b_a(tmp_path: Path, use_rslora: bool, scale: float) -> None:
    a, b = factors(3)
    pairs = {"4.self_attn.q_proj": (a, b), "11.mlp.up_proj": (b.T, a.T)}
    adapter = read_adapter_updates(saved(tmp_path / "one", pairs, use_rslora=use_rslora), "mine")
    assert (adapter.name, adapter.base_sha256, adapter.rank) == ("mine", "a" * 64, 3)
    assert list(adapter.updates) == [Q, UP]
    norms = (float(a.double().norm()), float(b.double().norm()))
    assert adapter.factor_norms[Q] == pytest.approx(norms, rel=1e-12)
    expected = scale * (b.double() @ a.double()).numpy()
    assert np.abs(dense(adapter.updates[Q]) - expected).max() < 1e-12
    assert np.abs(dense(adapter.updates[UP]) - expected.T).max() < 1e-12


def test_update_since_an_earlier_adapter_is_the_difference(tmp_path: Path) -> None:
    shared, new, gone = factors(2, seed=1), factors(3, seed=2), factors(2, seed=3)
    q, k, v = (Place(0, f"self_attn.{name}_proj") for name in "qkv")
    before, after = (
        read_adapter_updates(
            saved(tmp_path / name, {f"0.{place.module}": ab for place, ab in pairs.items()}), name
        )
        for name, pairs in (("before", {q: shared, k: gone}), ("after", {q: new, v: new}))
    )
    since = after.since(before)
    assert (since.name, since.rank) == ("after since before", 5)
    old, now = ({place: dense(u) for place, u in adapter.updates.items()} for adapter in (before, after))
    expected = {q: now[q] - old[q], k: -old[k], v: now[v]}
    assert since.updates.keys() == expected.keys()
    for place, matrix in expected.items():
        assert np.abs(dense(since.updates[place]) - matrix).max() < 1e-12
    assert after.updates[q].inner(before.updates[q]) == pytest.approx(
        float((now[q] * old[q]).sum()), rel=1e-12
    )


@pytest.mark.parametrize(
    ("weight", "place"),
    [
        ("model.layers.3.self_attn.q_proj.weight", Place(3, "self_attn.q_proj")),
        ("transformer.h.12.attn.c_attn.weight", Place(12, "attn.c_attn")),
        ("model.layers.0.mlp.experts.7.up_proj.weight", Place(0, "mlp.experts.7.up_proj")),
        ("lm_head.weight", Place(-1, "lm_head")),
    ],
)
def test_place_of_a_weight_has_layer_and_module(weight: str, place: Place) -> None:
    assert Place.of(weight) == place


def test_check_one_base_allows_other_ranks_only(tmp_path: Path) -> None:
    def read(name: str, base: str | None, rank: int, out: int = 5) -> Adapter:
        return read_adapter_updates(saved(tmp_path / name, {"0.mlp.up_proj": factors(rank, out)}, base), name)

    first = read("first", "a" * 64, 2)
    check_one_base([first, read("second", "a" * 64, 3), read("unknown", None, 2)])
    with pytest.raises(ConfigError, match=r"first .*aaaaaaaaaaaa .*other .*bbbbbbbbbbbb"):
        check_one_base([first, read("other", "b" * 64, 2)])
    with pytest.raises(ConfigError, match=r"mlp\.up_proj of layer 0 .*\(5, 7\) in first .*\(6, 7\) in big"):
        check_one_base([first, read("big", None, 2, out=6)])


def test_read_adapter_updates_refuses_unsupported_adapters(tmp_path: Path) -> None:
    a, b = factors(2)
    with pytest.raises(ConfigError, match=r"adapter_config\.json"):
        read_adapter_updates(tmp_path)
    with pytest.raises(ConfigError, match="use_dora"):
        read_adapter_updates(saved(tmp_path / "dora", {"0.mlp.up_proj": (a, b)}, use_dora=True))
    a[0, 0] = float("nan")
    with pytest.raises(ConfigError, match=r"/nan: .*up_proj\.lora_A\.weight"):
        read_adapter_updates(saved(tmp_path / "nan", {"0.mlp.up_proj": (a, b)}))
