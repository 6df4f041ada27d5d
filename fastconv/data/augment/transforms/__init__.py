"""One file for each augmentation: its settings, its draws and its effect on pixels.

`policy` imports every file in this folder. A class that a file registers becomes a group of settings of `augment`.
"""
