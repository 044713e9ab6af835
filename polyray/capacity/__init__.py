"""Plan where the parts of a run go and how much GPU memory they need, before anything starts."""
