"""The reward service: `serve run services.reward:app`, or `import_path` in a Serve configuration file."""

from polyray.serving.reward.app import build as app

__all__ = ["app"]
