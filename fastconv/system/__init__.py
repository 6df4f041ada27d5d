"""The base of every package: user errors, settings, files, signals, and the processes of a run."""
