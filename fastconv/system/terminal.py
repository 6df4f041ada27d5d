"""What a command prints, in any encoding of the terminal."""

import sys


def print_in_any_encoding() -> None:
    """Make standard output and standard error write what their encoding lacks as backslash escapes.

    A name in another script, or one that is not UTF-8, would else end a command whose work is done.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # what a test or a notebook puts in their place may lack it
            stream.reconfigure(errors="backslashreplace")
