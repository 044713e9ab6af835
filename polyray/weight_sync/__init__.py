"""Getting a policy version into the engines, and proving that it is there. Without Ray.

adapter.py    what travels: adapter bytes, their identity, the probe they must reproduce
merge.py      adapter bytes + a pristine base -> the weights an engine reloads
probe.py      the fixed sequences that are probed; an adapter on disk as something deliverable
proof.py      probe log-probabilities, and the decision served / not served
registry.py   which version is published and which worker serves which
"""
