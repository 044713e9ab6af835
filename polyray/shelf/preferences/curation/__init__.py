"""From records of engagement to training data: what is kept, why the rest is not, and how it is divided.

    import -> review -> filters -> duplicates -> token lengths -> clusters -> best N -> parts and phases -> rows

filters.py        rules that look at one record; their order is that of FilterSpec
language.py       which language, where a text is long enough to tell
fingerprints.py   shingles, MinHash, which texts are almost the same
duplicates.py     of equal completions the best one stays; what must share a cluster
selection.py      the best N that differ                                   partition.py  stratified parts by cluster
review.py         review.csv, which a person edits                         rows.py       sft.jsonl and rl.jsonl
tokens.py         lengths under a model's chat template                    statistics.py what is reported
pipeline.py       all of it in order

No step depends on the order of the input. Called by polyray curate; the page is
polyray/shelf/preferences/curation_report.py.
"""
