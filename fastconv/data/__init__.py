"""Turns source images into a stream of augmented batches. Needs only numpy, and torchvision for some sources."""
