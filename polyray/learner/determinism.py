"""Make a learner process give the same bits for the same input.

The gradient of picking rows (`hidden[rows]`) adds up rows that were picked twice. With several threads torch adds
them in order of arrival, unless it is told not to. Every completion of a group picks the packed prompts. Called
once per learner process, before the model is built.
"""

from __future__ import annotations

import torch


def make_reproducible(num_threads: int | None, device: torch.device) -> None:
    """Fixes the number of threads (None: as torch chose) and, on the CPU, the order of every sum.

    On a GPU it only sets the threads: deterministic kernels there are slower and not complete.
    """
    if num_threads is not None:
        torch.set_num_threads(num_threads)
    if device.type == "cpu":
        torch.use_deterministic_algorithms(True)
        # Deterministic mode also fills every new tensor, which costs time and changes nothing here.
        torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
