"""Plans a run, trains it with Lightning, scores it and records it."""
