"""Choose the tokens that make a policy collapse, by the covariance of advantage and log-probability.

The entropy of a policy falls with the covariance of log pi and A over tokens; a few tokens carry nearly all of it.
Clip-Cov takes a random few of them out of the loss, KL-Cov holds the largest near the old policy (arXiv 2505.22617).
Both choose among all tokens of an update, over all micro-batches and ranks. Called by the learner step.
Suffix _N = tokens in the loss of one update.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from polyray.metrics.arrays import Floats, finite_vector

ROUNDING_NATS = 0.01
"""Below this size log ratios may be rounding, so that their sign must not decide the gradient."""


def token_covariances(logprobs_N: npt.ArrayLike, advantages_N: npt.ArrayLike) -> Floats:
    """(A_t - mean A) (log pi_t - mean log pi) per token, means over all tokens. [N] float64

    Raises:
        ValueError: different lengths, NaN.
    """
    logprobs = finite_vector(logprobs_N, "logprobs_N", at_least=0)
    advantages = finite_vector(advantages_N, "advantages_N", at_least=0)
    if len(logprobs) != len(advantages):
        raise ValueError(
            f"logprobs_N has {len(logprobs)} entries but advantages_N {len(advantages)}; give one per token"
        )
    if len(logprobs) == 0:
        return logprobs
    return (advantages - advantages.mean()) * (logprobs - logprobs.mean())


def clip_cov_tokens(
    covariances_N: Floats, draws_N: Floats, *, share: float = 2e-4, low: float = 1.0, high: float = 5.0
) -> npt.NDArray[np.bool_]:
    """Tokens that leave the loss: a random `share` of all, out of those with a covariance in (low, high). [N]

    At least one token leaves where any lies in the band. The smallest `draws_N` decide: one uniform random number per
    token, which must belong to the token and not to its place, so that the order of tokens changes nothing.
    """
    _check_share(share)
    candidates = np.flatnonzero((covariances_N > low) & (covariances_N < high))
    count = max(int(share * len(covariances_N)), 1)
    return _marked(candidates[np.argsort(draws_N[candidates])[:count]], len(covariances_N))


def kl_cov_tokens(covariances_N: Floats, draws_N: Floats, *, share: float = 2e-4) -> npt.NDArray[np.bool_]:
    """Tokens that are held back: the `share` of all with the largest covariance, at least one. [N]

    Among equal covariances the smallest `draws_N` decide, as in `clip_cov_tokens`.
    """
    _check_share(share)
    order = np.lexsort((draws_N, -covariances_N))
    return _marked(order[: max(int(share * len(covariances_N)), 1)], len(covariances_N))


def kl_cov_penalty(policy_logprobs: torch.Tensor, old_logprobs: torch.Tensor) -> torch.Tensor:
    """|log ratio| of policy and old policy, elementwise; quadratic below `ROUNDING_NATS`.

    Without the quadratic part a log ratio of 1e-7 nats, which is rounding, would have the gradient of a large one.
    """
    return torch.nn.functional.smooth_l1_loss(
        policy_logprobs, old_logprobs.detach(), reduction="none", beta=ROUNDING_NATS
    )


def _marked(indices: npt.NDArray[np.intp], num_tokens: int) -> npt.NDArray[np.bool_]:
    marked = np.zeros(num_tokens, dtype=np.bool_)
    marked[indices] = True
    return marked


def _check_share(share: float) -> None:
    if not 0 < share <= 1:
        raise ValueError(f"share={share} must lie in (0, 1]; the paper uses 2e-4")
