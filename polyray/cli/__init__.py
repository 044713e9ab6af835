"""Command lines: one module per command, which parses its arguments and calls the rooms below."""
