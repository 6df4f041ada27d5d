"""Run folders: what a run leaves on disk, read again as plain files, so that old runs outlive the schema."""
