"""The article's experiment: rows of finished runs, what they say of its claims, and the page."""
