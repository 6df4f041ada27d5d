"""Trained networks at work and under study: prediction, export, evaluation, comparison, attribution."""
