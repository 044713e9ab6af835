"""Padding and packing of supervised rows."""

from __future__ import annotations

from polyray.data.packing import collate, collate_packed, pack
from polyray.data.token_rows import TokenRow


def test_collate_pads_on_the_right_and_trains_responses_only() -> None:
    batch = collate([TokenRow((1, 5, 6, 7, 2), 3), TokenRow((1, 8, 2), 2)], pad_id=9)
    assert batch.token_ids_BT.tolist() == [[1, 5, 6, 7, 2], [1, 8, 2, 9, 9]]
    assert batch.response_mask_BT.tolist() == [[False] * 3 + [True] * 2, [False, False, True, False, False]]
    assert batch.first_target == 2
    assert TokenRow((1, 5, 6, 7, 2), 3).num_targets == 2


def test_pack_fits_longest_rows_first() -> None:
    rows = [TokenRow(tuple(range(size)), 1) for size in (3, 5, 2, 7, 4)]
    packed = pack(rows, 10)
    assert [[len(row.token_ids) for row in sequence] for sequence in packed] == [[7, 3], [5, 4], [2]]


def test_collate_packed_restarts_positions() -> None:
    rows = [TokenRow((1, 5, 6, 7, 2), 2, untrained=((3, 4),)), TokenRow((1, 8, 2), 2)]
    batch = collate_packed([rows, [TokenRow((1, 2), 1)]], pad_id=9)
    assert batch.token_ids_BT.tolist() == [[1, 5, 6, 7, 2, 1, 8, 2], [1, 2, *[9] * 6]]
    assert batch.response_mask_BT.nonzero().tolist() == [[0, 2], [0, 4], [0, 7], [1, 1]]
    assert batch.segments_BT is not None and batch.position_ids_BT is not None
    assert batch.segments_BT.tolist() == [[0] * 5 + [1] * 3, [0, 0, *[-1] * 6]]
    assert batch.position_ids_BT.tolist() == [[0, 1, 2, 3, 4, 0, 1, 2], [0, 1, *[0] * 6]]
    assert batch.first_target == 1
    assert rows[0].num_targets == 2
