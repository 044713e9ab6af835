"""Checks of a machine, a model or a cluster, each with a fix for what it finds."""
