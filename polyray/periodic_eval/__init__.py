"""Evaluate fixed prompts while training."""
