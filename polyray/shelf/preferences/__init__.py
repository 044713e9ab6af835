"""Preference data and the engagement reward model: curation, training, evaluation."""
