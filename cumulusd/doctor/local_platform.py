"""What the local platform needs: an interpreter that runs. Blocking, bounded."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from cumulusd.config_platform import LocalPlatform
from cumulusd.doctor.finding import Finding, fault, ok

TIMEOUT_S = 20.0


def examine(local: LocalPlatform) -> Iterator[Finding]:
    """The Python that jobs run on."""
    python = local.python or Path(sys.executable)
    code = "import sys; print('.'.join(map(str, sys.version_info[:3])))"
    advice = "see platform.local.python; in the repository script/setup makes one"
    try:
        done = subprocess.run(
            [python, "-I", "-c", code],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        yield fault("python", f"{python} gave no answer within {TIMEOUT_S:g} s", advice)
        return
    except OSError as error:
        yield fault("python", f"{python} can't be run: {error.strerror}", advice)
        return
    if done.returncode:
        yield fault("python", f"{python} fails: {done.stderr.strip()[-300:]}", advice)
    else:
        yield ok("python", f"jobs run on {python}, Python {done.stdout.strip()[:40]}")
