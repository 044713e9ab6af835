"""Plain classes from below, wrapped as actors and connected.

rollout_actor.py   one engine in an actor: samples a group and has it scored
rollout_pool.py    all rollout workers of a run, replaced when they die
shared_pool.py     rollout workers of several runs at the same time
reward_client.py   scoring through the reward service, patiently

coordinator.py     one per run: dispatches groups, cuts batches, delivers versions
serving_fleet.py   its workers: served versions, replacements, workers that join
trainer_liveness.py, engine_sleep.py   its reaction to a failed learner, and to one that shares its GPU
checkpoint_return.py   its restart from a checkpoint's snapshot
validation_rounds.py, reward_failure_monitor.py, batch_lease.py, run_state.py, delivery_report.py, stopping_alarms.py,
run_progress.py    smaller parts of it
run_metrics.py     its metrics for Prometheus; the names are in run_instruments.py

learner_worker.py  the loop inside Ray Train: pulls batches, publishes versions
supervised_worker.py, reward_model_worker.py   the same for SFT and for reward models
"""
