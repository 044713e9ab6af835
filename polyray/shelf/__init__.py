"""Optional parts above the core: preference data, LLM judge, research analysis, export.

The core does not import them.
"""
