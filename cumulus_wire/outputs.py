"""What an output of a job may be called, and how many there may be: all ends agree on this."""

#: Bounds of what one job may leave to be downloaded, beside its bytes.
MAX_FILES = 1000
MAX_NAME_BYTES = 512
_MAX_PART_BYTES = 255


def name_fault(name: str) -> str | None:
    """Why `name` is no output's name; None: it is one.

    A name is a relative path with `/` between its parts, as UTF-8, without `.`, `..`, backslashes
    and control characters: the same file on every system, and nothing outside its folder.
    """
    try:
        encoded = name.encode()
    except UnicodeEncodeError:
        return "its name is no UTF-8"
    if not encoded:
        return "its name is empty"
    if len(encoded) > MAX_NAME_BYTES:
        return f"its name has more than {MAX_NAME_BYTES} bytes"
    if any(ord(char) < 32 or ord(char) == 127 for char in name):
        return "its name has control characters"
    if "\\" in name:
        return "its name has a backslash"
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts):
        return "its name is no relative path"
    if any(len(part.encode()) > _MAX_PART_BYTES for part in parts):
        return f"a part of its name has more than {_MAX_PART_BYTES} bytes"
    return None
