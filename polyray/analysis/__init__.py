"""From run directories to a page a stranger can read. Plotly and jinja2; no Ray, no torch.

run_data.py    finds runs under the given paths and reads their files
arms.py        runs and evaluated models that belong together; colours
numbers.py     how numbers are written
headline.py    the table: every arm with intervals, and differences to the baseline
statements.py  sentences, generated from intervals
figures.py     Plotly figures from metrics rows and metrics.json
boards.py      hidden-trap boards as SVG             candidates.py  the same prompts, all arms, side by side
report.py      all of it in one HTML file (templates/report.html.j2)
curation_report.py  the page about a curated data set
sweep/         what a sweep of a weight showed: results.json and its page
"""
