"""From held-out prompts to numbers with intervals. No Ray, no torch: the engines are behind a callable.

records.py     one line of samples.jsonl and of results.jsonl; reading and writing them
selectors.py   who picks one of k candidates: a score per sample
per_prompt.py  sample records -> one array per metric, an entry per prompt
scoring.py     per-prompt arrays -> metrics.json, with bootstrap intervals over clusters and paired
comparisons sampling.py    requests with paired seeds; sample, score, write everything summary.py
metrics.json as a table for a terminal
"""
