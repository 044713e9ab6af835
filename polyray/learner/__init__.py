"""Updating the policy, without Ray.

loop.py             the RL loop of one rank: pull a batch, update, publish, write, checkpoint
policy.py           everything of a run that has weights
step.py             one batch: rows, anchors, advantages, updates; group_metrics.py its metrics
batch.py            rows; old_logprobs.py the log-probs that stay fixed while a batch is trained on
advantages.py       which completions take part, added rewards, scale; objectives.py one function per algorithm.type
token_loss.py       from log-probs to the loss of every token; covariance.py chooses those of Clip-Cov and KL-Cov
supervised_term.py  cross-entropy on demonstrations beside an objective: polychromic SFT
reduce.py           sums over data-parallel ranks; fsdp_padding.py as many passes on each, where they share the base
monitors.py         rules over lines of metrics.jsonl and dynamics.jsonl, and their alarms
step_result.py          how a step ended for the run
state.py            one checkpoint; checkpoints.py which are kept, checkpoint_storage.py their copies behind a URL
run_files.py        metrics.jsonl and rollouts.jsonl
periodic_eval.py    results of evaluation while training, best/; supervised_eval.py the same for SFT
supervised_loop.py  the SFT loop; supervised.py is one step of it, supervised_objectives.py its losses
stopping.py         whether it is to end, with one answer for all ranks
optim.py            optimiser and schedule, shared by all

"""
