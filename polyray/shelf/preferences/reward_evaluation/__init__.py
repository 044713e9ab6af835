"""Validation of reward models on held-out engagement: are they right, are they sure, can they be fooled.

held_out.py          records -> the part that is validated on, its pairs, and what may be fitted on
seen.py              what models were trained on, which is never validated
scorers.py           engagement models, rewards and baselines behind one protocol
language_models.py   log-probabilities for one of the baselines
score_store.py       scores on disk, so that a killed run goes on
measures.py          accuracy, correlation, calibration of each scorer; paired tests against the baselines
slices.py            accuracy where it might be worse
probes.py  probe_results.py   altered texts, and who falls for them
results.py           what metrics.json holds        statement.py   the verdict in words
figures.py  report.py   the page
pipeline.py          all of it, from a configuration

Called by `polyray evaluate reward`. No Ray.
"""
