"""What jobs say, as text that every serialisation of WAMP carries. Pure."""


def carried(text: str) -> str:
    """In JSON a leading NUL would mean binary; half a character (a lone surrogate, as Python makes
    them of names that are no UTF-8) has no bytes, and would keep all that it is told with from its
    readers."""
    return text.encode("utf-8", "replace").decode().replace("\0", "\\0")
