"""Augmentation: the random decisions of an epoch, and their effect on pixels.

Each augmentation is a `Transform` in a file of its own in `transforms/`. A `Policy` holds the settings of all of them.
"""
