"""Augmentation: an epoch's random decisions, and what they do to pixels.

Each augmentation is a `Transform` in a file of its own in `transforms/`. A `Policy` holds the settings of all of them.
"""
