"""Plain classes from below, wrapped as actors and connected.

coordinator.py            one per run: dispatches groups, cuts batches, publishes versions; lists its queues
rollout_buffer.py         every group of the run from its id to its end, and the rules of staleness
worker_table.py           one row for each rollout worker; incidents and failure of the run
weight_sync_manager.py    brings workers to versions, replaces them, puts engines to sleep
periodic_eval.py          fixed prompts for the versions that are due
monitoring.py             progress, metrics for Prometheus, limits on unscored completions

rollout_actor.py          one engine in an actor: samples a group and has it scored
rollout_pool.py           all rollout workers of a run, or of several at the same time
reward_client.py          scoring through the reward service, patiently
"""
