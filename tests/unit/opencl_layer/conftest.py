"""The layer, compiled once for the session, with its grant in the session's own folder."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from opencl_layer_kit import Layer

SOURCES = Path(__file__).parents[3] / "images/job/opencl_layer"


@pytest.fixture(scope="session")
def built_layer(tmp_path_factory: pytest.TempPathFactory) -> Layer:
    folder = tmp_path_factory.mktemp("opencl_layer")
    layer = Layer(folder)
    subprocess.run(
        [
            "make",
            f"--directory={SOURCES}",
            f"OUT={folder}",
            f"GRANT_PATH={layer.grant}",
            f"LAYER_PATH={layer.library}",
        ],
        check=True,
        stdout=subprocess.DEVNULL,
        timeout=100,
    )
    return layer


@pytest.fixture
def layer(built_layer: Layer) -> Iterator[Layer]:
    """It, without a grant."""
    built_layer.clear()
    yield built_layer
    built_layer.clear()
