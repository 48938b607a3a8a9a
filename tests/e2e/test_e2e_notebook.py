"""The example notebook in a real kernel, through the client as a person uses it there."""

import json
import os
import subprocess
from typing import Any

from tests.e2e.harness import PYTHON, REPOSITORY, Daemon

#: In a process of its own: kernels and their loop are none of the tests' business.
EXECUTE = """
import sys, nbclient, nbformat
notebook = nbformat.read(sys.argv[1], as_version=4)
try:
    nbclient.NotebookClient(notebook, timeout=100, kernel_name="python3").execute()
finally:
    nbformat.write(notebook, sys.argv[2])
"""


def told(cell: dict[str, Any]) -> str:
    """What a cell printed and gave."""
    parts = []
    for output in cell.get("outputs", []):
        if output["output_type"] == "stream" and output["name"] == "stdout":
            parts.append("".join(output["text"]))
        elif output["output_type"] == "execute_result":
            parts.append("".join(output["data"]["text/plain"]))
    return "".join(parts)


def test_the_example_notebook_runs_in_a_kernel(daemon: Daemon) -> None:
    executed = daemon.folder / "executed.ipynb"
    done = subprocess.run(
        [PYTHON, "-c", EXECUTE, str(REPOSITORY / "examples/notebook.ipynb"), str(executed)],
        capture_output=True,
        text=True,
        timeout=110,
        stdin=subprocess.DEVNULL,
        cwd=daemon.folder,
        env={**os.environ, "CUMULUS_SERVER_URL": daemon.url, "JUPYTER_PLATFORM_DIRS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    cells = json.loads(executed.read_text())["cells"]
    train, lam, squares, fails = (
        told(next(cell for cell in cells if text in "".join(cell["source"])))
        for text in ("def train", "lambda:", "async with", "def fails")
    )
    assert "step 3 loss 0.4" in train, "the job's output appears in the cell"
    assert "Fit(rate=0.5, losses=[1.0, 0.6667, 0.5, 0.4])" in train
    assert "2\n" in lam, "the changed value of another cell"
    assert "[4, 9]" in squares and squares.endswith("16")
    assert "return 1 / x" in fails and "ZeroDivisionError" in fails
