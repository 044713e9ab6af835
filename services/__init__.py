"""Things with an address: Ray Serve applications. They wire polyray; only jobs import them.

reward/          scores completions (training calls it over a handle, everyone else over HTTP)
auth.py          bearer tokens
http_errors.py   one shape of error
body_limit.py    how much a request may hold
"""
