"""Monitor of scoring: unscored completions and their limit, and retries, from workers' replies."""

from __future__ import annotations

from polyray.config.run import TrainConfig
from polyray.errors import RewardError
from polyray.orchestrator.rollout_actor import RolloutReply
from polyray.orchestrator.run_state import RunState

FIRST_GROUPS = 2
"""Groups of a run without a single score after which its reward counts as broken."""


class RewardFailureMonitor:
    """Belongs to the coordinator's event loop. Equal reasons one after another are one incident."""

    def __init__(self, config: TrainConfig, run_state: RunState) -> None:
        self._config = config
        self._run_state = run_state
        self._samples = 0
        self._unscored = 0
        self._groups = 0
        self._any_scored = False
        self._last_error = ""
        self._last_retry = ""

    def new_batch(self) -> None:
        """The share of unscored completions is counted anew with every batch that is cut."""
        self._samples, self._unscored = 0, 0

    def observe(self, reply: RolloutReply) -> None:
        """Counts a group; ends the run above reward.service.max_unscored_share, and at its start where the reward
        scores nothing at all."""
        self._groups += 1
        self._any_scored = self._any_scored or reply.num_scored > 0
        self._samples += reply.num_samples
        self._unscored += reply.num_samples - reply.num_scored
        if reply.error and reply.error != self._last_error:
            self._run_state.incident("unscored", f"group {reply.group_id}: {reply.error}")
        self._last_error = reply.error or self._last_error
        if reply.retried and reply.retried != self._last_retry:
            self._last_retry = reply.retried
            self._run_state.incident(
                "reward_retried", f"group {reply.group_id} or one beside it was sent again: {reply.retried}"
            )
        self._check_share()

    def _check_share(self) -> None:
        self._check_first_groups()
        rollout, limit = self._config.rollout, self._config.reward.service.max_unscored_share
        enough = rollout.prompts_per_step * rollout.group_size // 2
        if self._samples >= enough and self._unscored > limit * self._samples:
            self._fail(
                f"{self._unscored} of the last {self._samples} completions could not be scored, above "
                f"reward.service.max_unscored_share={limit:g}"
            )

    def _check_first_groups(self) -> None:
        rollout, limit = self._config.rollout, self._config.reward.service.max_unscored_share
        if self._any_scored or limit >= 1 or self._groups < min(FIRST_GROUPS, rollout.prompts_per_step):
            return
        self._fail(f"none of the first {self._samples} completions could be scored")

    def _fail(self, found: str) -> None:
        """Ends the run; the log gets the whole reason, e.g. a traceback of the reward function."""
        reason = self._last_error or "the reward gave none"
        error = RewardError(f"{found}; the reason given: {reason.splitlines()[0]}")
        error.add_note(reason)
        self._run_state.fail(error)
