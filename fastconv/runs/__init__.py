"""Run folders: the files that a run leaves on disk. They are read as plain files, so that old runs stay readable."""
