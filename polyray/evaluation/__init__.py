"""From held-out prompts to numbers with intervals. No Ray: the engines are behind a callable. See docs/evaluation.md.

pipeline.py   an EvaluateConfig, start to end       problem_scoring.py   a samples file against problems
arms.py  baselines.py        what every model is asked       fingerprints.py  hashes of what samples were made from
sampling.py  sample_log.py   samples and verdicts, appended, resumable      scorers.py  passes.py  checkers.py
score_file.py  raw_samples.py  the same for samples that are there already
records.py  sample_source.py   lines of samples.jsonl and results.jsonl; reading them a prompt at a time
per_prompt.py  text_metrics.py  selectors.py   samples of a prompt -> values
scoring.py  bootstrap.py  curves.py  comparisons.py   values -> metrics.json     summary.py   as a table
exporters.py  the formats of other tools     bertscore.py   optional
judge/  language models as judges            reward_model/  are reward models right, sure, hard to fool
"""
