from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from runner_kit import JobFolder


@pytest.fixture
def new_job(tmp_path: Path) -> Iterator[Callable[..., JobFolder]]:
    """Makes job folders, `new_job(**orders)`; ends what runs in them."""
    made: list[JobFolder] = []

    def make(**orders: Any) -> JobFolder:
        made.append(JobFolder(tmp_path / f"job{len(made)}", **orders))
        return made[-1]

    yield make
    for job in made:
        job.close()
