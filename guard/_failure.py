"""What is logged of an exception that is not ours: its kind and its place, never its text."""

import traceback


def described(error: BaseException) -> str:
    """In one line and a traceback. The text of an error, and of its causes, may hold whatever the
    code that failed was about to send: passages, or a key."""
    where = "".join(traceback.format_tb(error.__traceback__))
    return f"{type(error).__name__}\n{where}"
