"""Sampling groups of completions, without Ray.

engine.py            the protocol of every inference engine
vllm_engine.py       vLLM in this process
vllm_async.py        vLLM in processes of its own, for tensor parallelism
vllm_delivery.py     the two ways a version gets into vLLM: merged weights, or adapters side by side
vllm_groups.py       vLLM's requests and answers as groups
adapter_files.py     adapters as directories in shared memory
watchdog.py          ends processes and removes files of an engine that died
processes.py         identity of a process, as pids are reused
simulated_engine.py  no model: a deterministic random policy, a clock and failures, for scale, overlap and faults
simulated_batch.py   when simulated sequences end; simulated_lengths.py    how long they are
worker.py            one engine, one thread that steps it, futures for its callers
seeds.py             a seed per sample
staleness.py         which groups may be started and which may still be trained on
validation.py        the fixed prompts of validation while training, and the metrics of their groups
rollout_buffer.py            which groups are out, buffered, leased and consumed, exactly once
dispatch.py          choice of the worker for a group; sync_limiter.py   limit of concurrent weight syncs
roster.py            members of a pool, and the consequence of a lost worker

Only vllm_*.py import vllm, and late.
"""
