"""The training stream: augmented epochs as WebDataset shards, written, read, fetched and cached."""
