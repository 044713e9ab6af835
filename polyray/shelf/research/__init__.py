"""Research analysis of trained adapters and finished evaluations."""
