"""Ray Serve applications over the core: wiring, tokens and HTTP.

reward/          scores completions (training calls it over a handle, other clients over HTTP)
generation/      completions, candidates, selections, a page
auth.py          bearer tokens
http_errors.py   one shape of error
body_limit.py    how much a request may hold
"""
