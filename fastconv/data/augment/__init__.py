"""Augmentation: an epoch's decisions, and what they do to pixels."""
