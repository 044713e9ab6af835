"""The benchmark job, `python -m benchmarks NAME`: one file per subcommand.

memory.py    peak memory and duration of the whole quickstart (subcommand `quickstart`)
gpu.py       agreement, delivery and learner throughput on a CUDA device
trl.py       whole steps beside TRL's: trl_steps.py, trl_trainer.py
made_groups.py, forced_lengths.py, models.py    what these compare with, and on
learner.py   learners to be measured
scale.py     1 to 256 simulated workers around the real coordinator
overlap.py   steps per minute at staleness 0 and 1 (subcommand `async`); recovery.py    what a killed worker costs
sweep.py     trials that share a fleet; sweep_trials.py    real ones, engine_memory.py    what their engines take;
             simulated_sweep.py    32 of them on 8 simulated engines
simulated_fleet.py, simulated_run.py, simulated_measures.py    the workers, the run and the figures of all
objectives.py    set objectives
measure.py   a measured quantity, its spread and its limit
"""
