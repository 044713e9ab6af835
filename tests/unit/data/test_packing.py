"""Padding of supervised rows."""

from __future__ import annotations

from polyray.data.packing import TokenRow, collate


def test_rows_are_padded_on_the_right_and_only_responses_are_trained() -> None:
    batch = collate([TokenRow((1, 5, 6, 7, 2), 3), TokenRow((1, 8, 2), 2)], pad_id=9)
    assert batch.token_ids_BT.tolist() == [[1, 5, 6, 7, 2], [1, 8, 2, 9, 9]]
    assert batch.response_mask_BT.tolist() == [[False] * 3 + [True] * 2, [False, False, True, False, False]]
    assert batch.first_target == 2
    assert TokenRow((1, 5, 6, 7, 2), 3).num_targets == 2
