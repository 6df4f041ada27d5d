"""Sources of images: bundled and official data sets, and a user's own."""
