"""The error that a user can mend: one line that says what is wrong, where, and what to do."""


class InputError(Exception):
    """Bad input. Commands print the message as one line and exit with code 1, without a traceback."""


class StreamError(InputError):
    """A stream's file is missing, damaged or foreign. Commands add the command that repairs it."""
