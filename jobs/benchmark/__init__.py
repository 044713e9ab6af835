"""The benchmark job, `python -m jobs.benchmark NAME`: one file per subcommand.

loop.py      the training loop on this machine: agreement, throughput, latency, determinism, memory
gpu.py       agreement, delivery and learner throughput on a CUDA device
trl.py       the learner beside TRL's
training.py, rollout.py, memory.py    what loop.py measures; learner.py    what gpu.py and trl.py measure
scale.py     1 to 256 simulated workers around the real coordinator
overlap.py   steps per minute at staleness 0 and 1 (subcommand `async`); real_overlap.py    the same on real parts
simulated_fleet.py, simulated_run.py, simulated_measures.py    the workers, the run and the figures of both
evaluation.py, evaluation_metrics.py    running programs, metrics; adversarial.py    programs that must not pass
reward.py    the reward service; reward_parts.py, reward_load.py    what it measures, its load
encoder_reward.py    the reward it serves unless it is given a trained one
measure.py   a measured quantity, its spread and its limit
"""
