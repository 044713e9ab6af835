"""Optional parts above the core: preference data, LLM judge, research analysis, export.

The core does not import them; it finds what they offer by name.
"""

from polyray.extensions import register

register("reward", "engagement", "polyray.shelf.preferences.reward_type:ENGAGEMENT")
register("reward", "judge", "polyray.shelf.judge.reward_type:JUDGE")
register("checker", "judge", "polyray.shelf.judge.quality:open_quality")
register("judge_spend", "judge", "polyray.shelf.judge.ledger:spend_of_answers")
register("live_judge", "judge", "polyray.shelf.judge.live:open_live_judge")
