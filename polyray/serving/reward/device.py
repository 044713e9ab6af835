"""Device of a reward replica's models: the GPU that reward.service.num_gpus gives it, else the CPU."""

from __future__ import annotations

import os

from polyray.config.service import ServiceSpec
from polyray.errors import ResourceError


def replica_device(spec: ServiceSpec) -> str:
    """'cuda' where a replica has a GPU or a share of one, else 'cpu', also on machines with GPUs: those are others'.

    With several GPUs it is the first of those that Ray lets the replica see. Raises ResourceError where it sees none.
    """
    if not spec.num_gpus:
        return "cpu"
    import torch  # replicas without a GPU may need no torch

    if not torch.cuda.is_available():
        raise ResourceError(
            f"reward.service.num_gpus={spec.num_gpus:g}, but torch {torch.__version__} sees no CUDA device in the "
            f"replica (CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES', 'not set')}); install "
            "requirements/gpu.txt on the replicas' machines, or set reward.service.num_gpus=0 to score on their CPUs"
        )
    return "cuda"
