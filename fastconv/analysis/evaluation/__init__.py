"""Evaluation of a trained network: metrics with their intervals, and the page of a run."""
