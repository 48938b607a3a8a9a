"""`python -m tests.again [pytest arguments]`: pytest, then up to three failed tests again, alone.

What passes then has a race, in the test or in what it tests. It is named in the last lines, to be
mended, and doesn't fail the run; `CUMULUS_TEST_AGAIN=0` in the environment: it does.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

MOST = 3
TESTS_FAILED = 1  #: pytest's exit code


def run(arguments: Sequence[str]) -> int:
    """Runs pytest with these arguments, then what failed; the exit code."""
    pytest = (sys.executable, "-m", "pytest")
    with tempfile.TemporaryDirectory() as folder:
        to = Path(folder) / "failed"
        code = subprocess.run([*pytest, f"--failed-to={to}", *arguments]).returncode
        failed = to.read_text().splitlines() if to.exists() else []
    if code != TESTS_FAILED or not 0 < len(failed) <= MOST:
        return code
    if os.environ.get("CUMULUS_TEST_AGAIN") == "0":
        return code
    say("again, alone", failed)
    code = subprocess.run([*pytest, *failed]).returncode
    if code == 0:
        say("FAILED AMID THE OTHERS, passed alone: a race to be mended", failed)
    return code


def say(what: str, ids: Sequence[str]) -> None:
    print(f"== {what}:", *ids, sep="\n   ", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
