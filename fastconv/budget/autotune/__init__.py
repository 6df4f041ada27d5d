"""Autotune: chooses network, batch size, augmentation and scoring for a budget on this machine (`experiment=best`)."""
