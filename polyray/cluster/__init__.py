"""Ray itself: start or join it, and check before a run that it fits and that its machines share a directory."""
