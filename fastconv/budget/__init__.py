"""The time budget: clock, pacing, benchmarks, and the choice of what fits into it."""
