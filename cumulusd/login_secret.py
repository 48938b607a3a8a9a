"""The daemon's secret behind what it tells of names that aren't there.

The same over restarts: else a challenge that changes with one would show that its name is made up.
"""

import re
import secrets
from pathlib import Path

from cumulusd.state_file import StateFile

_BYTES = 32


def load_login_secret(path: Path) -> bytes:
    """The secret in that file, made at first. Blocks. Raises InternalError."""
    file = StateFile(path, version=1, what="the secret for logins")
    held = file.load().get("secret")
    if isinstance(held, str) and re.fullmatch(f"[0-9a-f]{{{2 * _BYTES}}}", held):
        return bytes.fromhex(held)
    made = secrets.token_bytes(_BYTES)
    file.save({"secret": made.hex()})
    return made
