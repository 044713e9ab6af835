"""The generation service.

    app.py          the deployment on Ray Serve          run.py      starts and stops it, with its reward
    service.py      one replica: what all of this is put together in
    routes.py       OpenAI's routes, information, errors as statuses
    {candidate,adapter,page}_routes.py    the other routes
    middleware.py   log, scopes, rates, body limit: access_log.py, scopes.py + tokens.py, rate_limit.py
    answering.py    work that ends when its client goes; server-sent events

    asking.py       from requests to what the engine is asked      sampling.py     from there to texts, and giving up
    completing.py   OpenAI's completions: openai_wire.py, openai_answers.py
    candidates.py   sets of candidates: candidates_wire.py, candidate_answers.py, scoring.py
    policies.py     what is served, with proof                     following.py    in step with what should be
    sources.py      what an AdapterSpec names                      health.py       is the engine well
    metrics.py      what Prometheus sees                           errors.py       what is refused on purpose

The engines are polyray/rollout/vllm_text*.py, the store is polyray/data/selections/, the choice of k out of m is
polyray/evaluation/candidates.py.
"""
