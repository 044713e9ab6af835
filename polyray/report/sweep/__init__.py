"""Results of a sweep, after its trials have ended. numpy, scipy, plotly; no Ray, no torch.

trials.py          one line of trials.jsonl per trial
settings.py        trials of one setting, its seeds; the ones that count, and why the others do not
search.py          how the settings were chosen
values.py          per-prompt values of every trial, from the sweep's evaluation
curves.py          values of each setting, with intervals over seeds and prompts
comparisons.py     every setting against the baseline: tests, effect sizes, Holm
recommendation.py  the recommended value, by which rule, and how wide the range around it is
frontier.py        quality against diversity: front and hypervolume
costs.py           cost of trials, and of a gain over the baseline
results.py         all of it: results.json
figures.py         its pictures; parallel.py has the parallel coordinates
report.py          its page (templates/sweep.html.j2)
"""
