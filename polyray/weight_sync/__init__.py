"""Getting a policy version into the engines, and proving that it is there. Without Ray.

mode.py            merged weights or an adapter: the rule
merge.py           adapter bytes + a pristine base -> the weights an engine loads
vllm_delivery.py   loads them, or the adapter, into vLLM
probe.py           the fixed sequences that are probed; an adapter on disk as something deliverable
evidence.py        statistics of their log-probs
proof.py           the decision: served, or not served
"""
