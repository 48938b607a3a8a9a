"""The small hash is the same as the large one, and brings no OpenSSL."""

import hashlib
import subprocess
import sys

import pytest

from cumulus_runner import light_sha256


@pytest.mark.parametrize("size", [0, 1, 63, 64, 100_000])
@pytest.mark.parametrize("expected", [0, light_sha256.LIGHT_BYTES, light_sha256.LIGHT_BYTES + 1])
def test_it_is_sha256(size: int, expected: int) -> None:
    digest = light_sha256.sha256(expected)
    digest.update(b"x" * size)
    digest.update(b"y")
    assert digest.hexdigest() == hashlib.sha256(b"x" * size + b"y").hexdigest()


def test_without_a_module_of_the_interpreters_it_is_hashlibs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("_sha2", "_sha256"):
        monkeypatch.setitem(sys.modules, name, None)
    digest = light_sha256.sha256(1)
    digest.update(b"x")
    assert digest.hexdigest() == hashlib.sha256(b"x").hexdigest()


def test_a_small_one_brings_no_openssl() -> None:
    code = (
        "import sys; from cumulus_runner.light_sha256 import sha256; sha256(1); "
        "sys.exit('_hashlib' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
