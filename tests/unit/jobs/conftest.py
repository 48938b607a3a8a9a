"""What several tests of this folder take."""

from pathlib import Path
from typing import Any

import pytest
from journal_world import Daemon


@pytest.fixture
def daemon(tmp_path: Path) -> Any:
    made = Daemon(tmp_path / "journals")
    yield made
    made.threads.held = False
    while made.threads.waiting:
        made.threads.release()
    made.end()
