"""From run directories to a page a stranger can read. Plotly and jinja2; no Ray, no torch.

run_data.py    finds runs under the given paths and reads their files
run_states.py  how far each run came, and what runs it again
costs.py       what runs cost: cost.json files as one table
arms.py        runs and evaluated models that belong together; colours
numbers.py     how numbers are written
headline.py    the table: every arm with intervals, and differences to the baseline
statements.py  sentences, generated from intervals
figures.py     Plotly figures from metrics rows and metrics.json    thinning.py  long curves with few points
dynamics.py    quality and diversity over time
pareto.py      which models and checkpoints no other one beats      pareto_bands.py, pareto_figures.py
export.py      figures as SVG, PDF and data          overview.py  the method in one picture
boards.py      hidden-trap boards as SVG             candidates.py  the same prompts, all arms, side by side
report.py      all of it in one HTML file (templates/report.html.j2); report_figures.py has its figures
pages.py       what all pages share (templates/base.html.j2): light and dark, print, figures and their tables
curation_report.py  the page about a curated data set
evaluated/     what finished evaluations say beyond their numbers: theory, conditions, criteria, tables
sweep/         what a sweep of a weight showed: results.json and its page
lora/          where in the network adapters work, and its page
"""
