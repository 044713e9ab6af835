"""Sampling groups of completions, without Ray.

engine.py            the protocol every inference engine follows
vllm_engine.py       vLLM in this process
vllm_async.py        vLLM in processes of its own, for tensor parallelism
vllm_delivery.py     the two ways a version gets into vLLM: merged weights, or adapters side by side
vllm_groups.py       vLLM's requests and answers as groups
adapter_files.py     adapters as directories in shared memory
watchdog.py          what must not outlive an engine's process does not
processes.py         which process is meant, when pids come again
simulated_engine.py  no model: a deterministic random policy, a clock and failures, for scale, overlap and faults
simulated_batch.py   when simulated sequences end; simulated_lengths.py    how long they are
worker.py            one engine, one thread that steps it, futures for its callers
seeds.py             a seed per sample
staleness.py         which groups may be started and which may still be trained on
validation.py        the fixed prompts of validation while training, and what their groups say
ledger.py            which groups are out, buffered, leased and consumed, exactly once
dispatch.py          which worker takes the next group; loading_turns.py   who may load a version now
roster.py            who belongs to a pool, and what the loss of a worker costs

Only vllm_*.py import vllm, and late.
"""
