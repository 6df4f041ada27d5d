"""A run: planned, trained by Lightning, scored and recorded."""
