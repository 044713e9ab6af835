"""Export of trained adapters: merged models, model cards, the hub."""
