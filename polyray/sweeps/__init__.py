"""Sweeps over settings and seeds with Ray Tune; trials may share one fleet of engines."""
