"""The seed of every sample: a hash of what the sample is, never of where or when it is drawn.

A sample's tokens depend on its seed and the policy alone, so a group that is requeued after a fault, or
sampled on another worker, comes out the same. Called by the dispatcher (training) and
polyray/evaluation/sampling.py.
"""

from __future__ import annotations

import hashlib
import json

SEED_BITS = 31
"""Seeds fit a signed 32-bit integer, which every engine accepts."""


def sample_seed(run_seed: int, group_key: int | str, sample_index: int) -> int:
    """The seed of one sample, in [0, 2**31).

    `group_key` names the group within the run: its id in training, a string for other uses (so that these
    never share seeds with training groups: 40 and "40" are different keys).
    """
    identity = json.dumps([run_seed, group_key, sample_index]).encode()
    digest = hashlib.blake2b(identity, digest_size=4).digest()
    return int.from_bytes(digest, "big") & ((1 << SEED_BITS) - 1)
