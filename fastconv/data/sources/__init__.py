"""Where images come from: bundled and official data sets, and a user's own."""
