"""Attention and hidden states of policies on one base and the same prompts.

    inputs.py     an evaluation's prompts and completions as tokens
    policies.py   one base, several adapters: attention weights and hidden states of given tokens
    attention.py  entropy of attention, distance between two patterns
    clusters.py   how many groups the hidden states of one prompt's completions form, and whether they are real
    results.py    all of it, with intervals over prompts
    page.py       the page

Called by polyray analyze mechanistic.
"""
