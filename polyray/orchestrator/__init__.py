"""The only package under polyray/ that imports ray: plain classes from below, wrapped and connected.

resources.py       starting Ray, what fits on it, placement
joining.py         a cluster that is there, with what can be wrong about it by name
rollout_actor.py   one engine in an actor: samples a group and has it scored
rollout_pool.py    all of a run's, replaced when they die
shared_pool.py     those of several runs at the same time
reward_client.py   scoring through the reward service, patiently
storage_check.py   whether all machines share a run's directory

coordinator.py     one per run: decides who samples what, cuts batches, delivers versions
serving_fleet.py   of it: who serves what, who is replaced, who joins
learner_presence.py, engine_sleep.py   of it: what a learner that fails, or shares its GPU, means for the others
checkpoint_return.py   of it: what a checkpoint gives back to a run that begins again
validation_rounds.py, scoring_watch.py, batch_lease.py, outcome.py, delivery_report.py, stopping_alarms.py,
run_progress.py    smaller parts of it
run_metrics.py     of it: what Prometheus is told; the names are in run_instruments.py

learner_worker.py  what runs inside Ray Train: pulls batches, publishes versions
supervised_worker.py, reward_model_worker.py   the same for SFT and for reward models
"""
