"""Analysis of an adapter's updates by layer and module. numpy and scipy; no Ray, no model.

updates.py      adapters read as factored updates; the part of one beyond another
spectra.py      norms, singular values, effective and stable rank of each update
overlaps.py     how far two updates point the same way: cosine, principal angles, and the value by chance
drift.py        an update along checkpoints
null.py         arms against each other, with the spread of their seeds as the null
results.py      all of it, as lora.json and tables have it
figures.py      its pictures; page.py has the page (templates/lora.html.j2)
ablation.py     contribution of each layer of an adapter
"""
