"""One file for each augmentation: its settings, its draws and what it does to pixels.

Every file in this folder is imported by `policy`. A class that it registers becomes a group of settings of `augment`.
"""
