"""The generation service.

    app.py                 the deployment on Ray Serve
    run.py                 starts and stops it, with its reward
    service.py             one replica, built from all of the following
    routes.py              OpenAI's routes, information, errors as statuses
    {candidate,adapter,page}_routes.py    the other routes
    middleware.py          log, scopes, rates, body limit: access_log.py, scopes.py + tokens.py, rate_limit.py
    streaming.py           work that ends when its client goes; server-sent events
    request_parser.py      requests as the engine gets them
    text_engine.py         one worker with an engine (polyray/rollout/), its texts as async streams
    sampling.py            texts of the engine, and deadlines
    completions.py         OpenAI's completions: openai_wire.py, openai_answers.py
    candidates.py          sets of candidates: candidates_wire.py, candidate_answers.py, scoring.py
    policies.py            served policies, each verified
    adapter_sync.py        keeps the served policies as they should be
    sources.py             the adapter that an AdapterSpec names
    health.py              whether the engine is well
    metrics.py             metrics for Prometheus
    errors.py              refusals

The store is polyray/data/selections/, the choice of k out of m is polyray/evaluation/candidates.py.
"""
