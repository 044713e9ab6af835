"""Programs that compare polyray with its own earlier results."""
