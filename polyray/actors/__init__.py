"""The only package under polyray/ that imports ray: plain classes from below, wrapped and connected.

resources.py       starting Ray, what fits on it, placement
joining.py         a cluster that is there, with what can be wrong about it by name
rollout_actor.py   one engine in an actor: samples a group and has it scored
rollout_pool.py    all of a run's, replaced when they die
shared_pool.py     those of several runs at the same time
reward_client.py   scoring through the reward service, patiently
coordinator.py     one per run: decides who samples what, cuts batches, delivers versions
learner_worker.py  what runs inside Ray Train: pulls batches, publishes versions
supervised_worker.py  the same for SFT
"""
