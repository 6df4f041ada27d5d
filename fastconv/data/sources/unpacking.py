"""Limits of what files may unpack to: images hardly shrink when they are packed, files made to fill the memory do."""

# A file may unpack to FREE_BYTES and MOST_RATIO times its own bytes: deflate reaches 1,032 on zeros alone, and 5 on
# images of MNIST, which are mostly black. Tars and parquet files hold images that are compressed already.
FREE_BYTES, MOST_RATIO = 2**28, 200
# Bytes that an image counts at least: its name, its label and its hash take them in memory.
IMAGE_BYTES = 256
