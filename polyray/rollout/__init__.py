"""Sampling of groups and texts, without Ray: one kind of engine, and the thread that owns it.

engine.py            an engine of requests; groups, texts and versions above them
vllm_engine.py       vLLM, in this process or in processes of its own
simulated_engine.py  no model: a deterministic random policy, a clock and failures, for scale, overlap and faults
worker.py            one engine, one thread that steps it, futures for its callers
"""
