"""Analysis of finished evaluations for a paper. No Ray, no torch.

inputs.py      the evaluations under the given paths, with their judgements, costs and validated rewards
outcomes.py    passes and classes of samples, as arrays  sources.py  place of a number, with the file's hash
theory.py      pass@k predicted by a beta-binomial and measured; crossings of models, and their k
conditions.py  when a model helps and when it hurts      worst_prompts.py  the candidates where it hurt most
criteria.py    the research's success criteria           domains.py  any number of evaluations in one table
results.py     all of it
tables.py  cells.py  table_text.py   as LaTeX and Markdown, every cell traced
collapse.py  how many candidates to generate
figures.py  drawings.py              as Plotly figures with captions      files.py  all output files
"""
