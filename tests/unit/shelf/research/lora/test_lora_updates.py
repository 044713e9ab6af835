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


@pytest.mark.parametrize(("use_rslora", "scale"), [(False, ALPHA / 3), (True, ALPHA / np.sqrt(3))])
def test_an_update_is_scale_times_b_a(tmp_path: Path, use_rslora: bool, scale: float) -> None:
    a, b = factors(3)
    where = saved(
        tmp_path / "one", {"4.self_attn.q_proj": (a, b), "11.mlp.up_proj": (b.T, a.T)}, use_rslora=use_rslora
    )
    adapter = read_adapter_updates(where, "mine")
    assert (adapter.name, adapter.base_sha256, adapter.rank) == ("mine", "a" * 64, 3)
    assert list(adapter.updates) == [Place(4, "self_attn.q_proj"), Place(11, "mlp.up_proj")]
    norms = adapter.factor_norms[Place(4, "self_attn.q_proj")]
    assert norms == pytest.approx((float(a.double().norm()), float(b.double().norm())), rel=1e-12)
    expected = scale * (b.double() @ a.double()).numpy()
    assert np.abs(dense(adapter.updates[Place(4, "self_attn.q_proj")]) - expected).max() < 1e-12
    assert np.abs(dense(adapter.updates[Place(11, "mlp.up_proj")]) - expected.T).max() < 1e-12


def test_update_since_an_earlier_adapter_is_the_difference(tmp_path: Path) -> None:
    shared, new, gone = factors(2, seed=1), factors(3, seed=2), factors(2, seed=3)
    before = read_adapter_updates(
        saved(tmp_path / "before", {"0.self_attn.q_proj": shared, "0.self_attn.k_proj": gone}), "before"
    )
    after = read_adapter_updates(
        saved(tmp_path / "after", {"0.self_attn.q_proj": new, "0.self_attn.v_proj": new}), "after"
    )
    since = after.since(before)
    assert (since.name, since.rank) == ("after since before", 5)
    q, k, v = (Place(0, f"self_attn.{name}_proj") for name in "qkv")
    expected = {
        q: dense(after.updates[q]) - dense(before.updates[q]),
        k: -dense(before.updates[k]),
        v: dense(after.updates[v]),
    }
    assert since.updates.keys() == expected.keys()
    for place, matrix in expected.items():
        assert np.abs(dense(since.updates[place]) - matrix).max() < 1e-12


def test_the_inner_product_is_that_of_the_matrices(tmp_path: Path) -> None:
    first, second = (
        read_adapter_updates(saved(tmp_path / str(rank), {"0.mlp.up_proj": factors(rank, seed=rank)}))
        for rank in (2, 4)
    )
    one, two = (adapter.updates[Place(0, "mlp.up_proj")] for adapter in (first, second))
    assert one.inner(two) == pytest.approx(float(np.sum(dense(one) * dense(two))), rel=1e-12)


@pytest.mark.parametrize(
    ("weight", "place"),
    [
        ("model.layers.3.self_attn.q_proj.weight", Place(3, "self_attn.q_proj")),
        ("transformer.h.12.attn.c_attn.weight", Place(12, "attn.c_attn")),
        ("model.layers.0.mlp.experts.7.up_proj.weight", Place(0, "mlp.experts.7.up_proj")),
        ("lm_head.weight", Place(-1, "lm_head")),
    ],
)
def test_a_weight_has_its_place(weight: str, place: Place) -> None:
    assert Place.of(weight) == place


def test_ranks_may_differ_and_bases_may_not(tmp_path: Path) -> None:
    def read(name: str, base: str | None, rank: int, out: int = 5) -> Adapter:
        return read_adapter_updates(saved(tmp_path / name, {"0.mlp.up_proj": factors(rank, out)}, base), name)

    first = read("first", "a" * 64, 2)
    check_one_base([first, read("second", "a" * 64, 3), read("unknown", None, 2)])
    with pytest.raises(ConfigError, match=r"first .*aaaaaaaaaaaa .*other .*bbbbbbbbbbbb"):
        check_one_base([first, read("other", "b" * 64, 2)])
    with pytest.raises(ConfigError, match=r"mlp\.up_proj of layer 0 .*\(5, 7\) in first .*\(6, 7\) in big"):
        check_one_base([first, read("big", None, 2, out=6)])


def test_unsupported_adapter_is_refused(tmp_path: Path) -> None:
    a, b = factors(2)
    with pytest.raises(ConfigError, match=r"adapter_config\.json"):
        read_adapter_updates(tmp_path)
    with pytest.raises(ConfigError, match="use_dora"):
        read_adapter_updates(saved(tmp_path / "dora", {"0.mlp.up_proj": (a, b)}, use_dora=True))
    a[0, 0] = float("nan")
    with pytest.raises(ConfigError, match=r"/nan: .*up_proj\.lora_A\.weight"):
        read_adapter_updates(saved(tmp_path / "nan", {"0.mlp.up_proj": (a, b)}))
