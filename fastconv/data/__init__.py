"""From source images to a stream of augmented batches. Needs numpy only, and torchvision where a source does."""
