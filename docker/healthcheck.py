"""Whether this container works: exit code 0 if POLYRAY_HEALTH_URL answers 200, else 1.

The default asks Ray's agent about the raylet of this node, which holds for heads, workers and jobs with a Ray of
their own. For a container that serves, its route, e.g. http://127.0.0.1:8000/healthz. Called by HEALTHCHECK in the
Dockerfile; Kubernetes has KubeRay's probes instead.
"""

from __future__ import annotations

import os
import sys
import urllib.error
import urllib.request

RAYLET = "http://127.0.0.1:52365/api/local_raylet_healthz"
TIMEOUT_S = 4.0


def main() -> int:
    """The exit code; what is wrong goes to stderr."""
    url = os.environ.get("POLYRAY_HEALTH_URL", RAYLET)
    # A proxy of the environment (http_proxy) knows nothing of this container's own ports.
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(url, timeout=TIMEOUT_S) as answer:
            status = answer.status
    except urllib.error.HTTPError as error:
        status = error.code
    except OSError as error:
        print(f"{url}: {error}", file=sys.stderr)
        return 1
    if status != 200:
        print(f"{url}: HTTP {status}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
