"""Where the tokens made by command are kept: hashes only, in the daemon's state folder.

That the file is there closes the daemon: taking the last token away must not let everybody in.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from cumulusd.admin.token_record import TokenRecord, as_stored, record_of
from cumulusd.errors import InternalError
from cumulusd.state_file import StateFile

FILE = "tokens.json"


class TokenFile:
    """Loads and saves. Everything blocks: at the start, or in a thread."""

    def __init__(self, state_dir: Path) -> None:
        self._file = StateFile(state_dir / FILE, version=1, what="the file of tokens")

    def load(self) -> list[TokenRecord] | None:
        """All that are kept; None when none was ever made. Raises InternalError."""
        if not os.path.exists(self._file.path):
            return None
        value = self._file.load()
        try:
            return [record_of(each) for each in value["tokens"]]
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise InternalError(
                f"the file of tokens {self._file.path} is damaged: {error!r}",
                hint="put a backup in its place; moved away, all tokens made by command are gone",
            ) from error

    def save(self, records: Sequence[TokenRecord]) -> None:
        """Returns when they would survive a power cut. Raises InternalError."""
        self._file.save({"tokens": [as_stored(record) for record in records]})
