"""What posted zips say of themselves, hostile ones too."""

import io
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cumulusd import package_contents
from cumulusd.errors import InvalidArgument
from cumulusd.package_contents import look_inside, requirement_lines


def zipped(files: dict[str, str | bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def look(tmp_path: Path, data: bytes) -> Any:
    path = tmp_path / "package.zip"
    path.write_bytes(data)
    return look_inside(path)


def test_a_package_of_ours_says_nothing_more(tmp_path: Path) -> None:
    data = zipped({"cumulus_package.json": "{}", "main.py": "", "requirements.txt": "six"})
    contents = look(tmp_path, data)
    assert (contents.legacy, contents.requirements) == (False, ())


def test_an_old_zip_says_what_it_requires(tmp_path: Path) -> None:
    listing = b"\xef\xbb\xbf# all\nnumpy>=1 # c\r\n\n  six\ntorch \\\n  ==2\nurl@http://x#y\n"
    contents = look(tmp_path, zipped({"main.py": "", "requirements.txt": listing}))
    assert contents.legacy
    assert contents.requirements == ("numpy>=1", "six", "torch    ==2", "url@http://x#y")
    assert look(tmp_path, zipped({"main.py": ""})).requirements == ()


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "no zip"),
        (b"no zip", "no zip"),
        (zipped({"function.py": ""}), "neither"),
        (zipped({"sub/main.py": ""}), "neither"),
        (zipped({"main.py": "", "requirements.txt": b"\xff"}), "UTF-8"),
        (zipped({"main.py": "", "requirements.txt": "x" * (257 << 10)}), "bytes"),
        (zipped({"main.py": "", "requirements.txt": "x"}, zipfile.ZIP_LZMA), "deflated"),
        (zipped({"main.py": ""})[:-30], "no zip"),
    ],
    ids=range(8),  # the zips hold the time
)
def test_what_cant_be_run_is_refused(tmp_path: Path, data: bytes, word: str) -> None:
    with pytest.raises(InvalidArgument, match=word) as refused:
        look(tmp_path, data)
    assert refused.value.details["faults"][0]["key"] == "code"


def test_a_huge_directory_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package_contents, "MAX_DIRECTORY_BYTES", 70_000)
    with pytest.raises(InvalidArgument, match="more files"):
        look(tmp_path, zipped({f"{number:0100}": "" for number in range(1000)} | {"main.py": ""}))


_GOOD = zipped({"main.py": "x", "requirements.txt": "six\n", "a/b": "c" * 100})


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damaged_ones_are_read_or_refused(tmp_path_factory: Any, data: st.DataObject) -> None:
    damaged = bytearray(_GOOD)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / f"damaged-{os.getpid()}.zip"
    path.write_bytes(damaged)
    try:
        look_inside(path)
    except InvalidArgument:
        pass


def test_an_entry_before_the_files_beginning_is_refused(tmp_path: Path) -> None:
    damaged = bytearray(_GOOD)
    begin = int.from_bytes(damaged[-6:-2], "little")
    damaged[-6:-2] = (begin + 216).to_bytes(4, "little")
    with pytest.raises(InvalidArgument, match="no zip file that can be read"):
        look(tmp_path, bytes(damaged))


def test_lines() -> None:
    assert requirement_lines("") == ()
    assert requirement_lines("a#b\n#c\n  # d\na @ http://h/#egg=a  # e") == (
        "a#b",
        "a @ http://h/#egg=a",
    )
