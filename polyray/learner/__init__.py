"""Updating the policy, without Ray.

loop.py             the RL loop of one rank: pull a batch, update, publish, write, checkpoint
policy.py           everything of a run that has weights
step.py             one policy update; batch.py makes its rows, group_metrics.py its metrics
reduce.py           sums over data-parallel ranks
state.py            checkpoints
run_files.py        metrics.jsonl and rollouts.jsonl
supervised_loop.py  the SFT loop; supervised.py is one step of it
optim.py            optimiser and schedule, shared by all

"""
