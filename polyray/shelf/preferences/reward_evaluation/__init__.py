"""Validation of reward models on held-out engagement: accuracy, calibration, robustness.

held_out.py          records -> the validated part, its pairs, and the texts for fitting
seen.py              training data of the models, which is never validated
scorers.py           engagement models, rewards and baselines behind one protocol
ngrams.py            log-probabilities for one of the baselines
score_store.py       scores on disk, so that a killed run can resume
measures.py          accuracy, correlation, calibration of each scorer; paired tests against the baselines
slices.py            accuracy where it might be worse
probes.py  probe_results.py   altered texts, and scorers that they fool
results.py           contents of metrics.json       statement.py   the verdict in words
figures.py  report.py   the page
pipeline.py          all of it, from a configuration

Called by `polyray evaluate reward`. No Ray.
"""
