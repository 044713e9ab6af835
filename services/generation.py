"""The generation service: `serve run services.generation:app`, or `import_path` in a Serve configuration file."""

from polyray.serving.generation.app import build as app

__all__ = ["app"]
