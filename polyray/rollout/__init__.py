"""Sampling groups of completions, without Ray.

engine.py            the protocol every inference engine follows
vllm_engine.py       vLLM in this process: the only file that imports vllm, and late
simulated_engine.py  no model: a deterministic random policy, for tests of scale and faults
worker.py            one engine, one thread that steps it, futures for its callers
seeds.py             a seed per sample
staleness.py         which groups may be started and which may still be trained on
validation.py        the fixed prompts of validation while training, and what their groups say
ledger.py            which groups are out, buffered, leased and consumed, exactly once
"""
