"""What every package stands on: errors that a user can mend, files, signals, and the processes of one run."""
