"""Folders and files that travel: which, where to, and what is refused."""

import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest

from cumulus_client import CodePackager, _package_zip
from cumulus_client._package_zip import Contents
from cumulus_client.exceptions import PackagingError
from cumulus_client.packaging import (
    Package,
    package_folder,
    package_function,
    package_path,
    package_script,
)


def entries(package: Package | bytes) -> dict[str, bytes]:
    data = package if isinstance(package, bytes) else package.whole()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"# {name}\n")


def work() -> None:
    pass


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_a_folder_travels_without_what_no_job_needs(here: Path) -> None:
    write(here, "__main__.py", "pkg/a.py", "pkg/__pycache__/a.pyc", ".git/HEAD", "old.pyc")
    write(here, "venv/pyvenv.cfg", "venv/lib/x.py", "data/a.csv", "data/b.csv", "logs/x/y.log")
    write(here, "keep/me.log", "node/x.tmp", ".hidden")
    (here / ".cumulusignore").write_text("# big\n*.log\n!keep/*.log\n/data/b.csv\nnode/\n")
    (here / "tool.sh").write_text("#!/bin/sh\n")
    (here / "tool.sh").chmod(0o755)
    (here / "pkg/back").symlink_to(here)
    (here / "linked.csv").symlink_to(here / "data/a.csv")
    package = package_folder(here, argv=["1"])
    found = entries(package)
    manifest = json.loads(found.pop("cumulus_package.json"))
    assert set(found) == {
        *("__main__.py", "pkg/a.py", "data/a.csv", "keep/me.log", ".hidden"),
        *("tool.sh", "linked.csv"),
    }
    assert found["linked.csv"] == b"# data/a.csv\n"
    assert manifest == {
        "version": 1,
        "kind": "script",
        "path": "__main__.py",
        "argv": ["1"],
        "origins": {"": str(here)},
    }
    assert (package.name, package.needs_python) == ("here", None)
    with zipfile.ZipFile(io.BytesIO(package.whole())) as archive:
        assert archive.getinfo("tool.sh").external_attr >> 16 == 0o100755
    assert package_folder(here, argv=["1"]).whole() == package.whole()
    assert package_path(here, ["1"]).whole() == package.whole()


def test_a_folders_entry_is_named_or_known(here: Path) -> None:
    write(here, "train.py", "src/run.py")
    assert b'"src/run.py"' in entries(package_folder(here, "./src/run.py"))["cumulus_package.json"]
    with pytest.raises(PackagingError, match=r"(?s)no script '__main__.py'.*there are: train.py"):
        package_folder(here)
    with pytest.raises(PackagingError, match="'/x/y' is not there"):
        package_folder("/x/y")
    with pytest.raises(PackagingError, match="is a file"):
        package_folder(here / "train.py")
    (here / ".cumulusignore").write_bytes(b"\xff")
    with pytest.raises(PackagingError, match="cumulusignore can't be read"):
        package_folder(here, "train.py")


def test_too_large_a_folder_names_its_largest_files(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(here, "__main__.py")
    (here / "small").write_bytes(bytes(10))
    (here / "large").write_bytes(bytes(3 << 20))
    (here / "model.bin").write_bytes(bytes(5 << 20))
    monkeypatch.setattr(_package_zip, "MAX_PACKAGE_BYTES", 7 << 20)
    with pytest.raises(PackagingError) as caught:
        package_folder(here)
    text = str(caught.value)
    assert "'here' needs is over 7 MiB" in text
    assert "model.bin (5.0 MiB), large (3.0 MiB)" in text and ".cumulusignore" in text
    assert "__main__.py (14 B), small (10 B)" in text
    monkeypatch.setattr(_package_zip, "MAX_PACKAGE_FILES", 2)
    with pytest.raises(PackagingError, match="over 2 files"):
        package_folder(here)


def test_what_is_no_file_is_refused(here: Path) -> None:
    write(here, "__main__.py")
    os.mkfifo(here / "pipe")
    with pytest.raises(PackagingError, match="pipe' is no plain file"):
        package_folder(here)
    (here / "pipe").unlink()
    (here / "nowhere").symlink_to("/no/such/file")
    with pytest.raises(PackagingError, match="nowhere' can't be read"):
        package_folder(here)
    (here / ".cumulusignore").write_text("nowhere\n")
    package_folder(here)


def test_files_go_where_they_are_wanted(here: Path) -> None:
    write(here, "data/a.csv", "data/deep/b.csv", "data/__pycache__/c.pyc")
    write(here.parent, "outside.txt")
    listed = entries(package_function(work, files=["data/a.csv", here.parent / "outside.txt"]))
    assert {"data/a.csv", "outside.txt"} < set(listed)
    tree = entries(package_function(work, files=["data", "../outside.txt"]))
    assert {"data/a.csv", "data/deep/b.csv", "outside.txt"} < set(tree)
    assert not any("pycache" in name for name in tree)
    mapped = entries(
        package_function(work, files={"in/x.bin": b"\x00", "in/b": Path("data/a.csv"), "d": "data"})
    )
    assert mapped["in/x.bin"] == b"\x00" and mapped["in/b"] == b"# data/a.csv\n"
    assert "d/deep/b.csv" in mapped
    script = here / "s.py"
    script.write_text("print(1)\n")
    assert "data/a.csv" in entries(package_script(script, files=["data/a.csv"]))


@pytest.mark.parametrize(
    ("files", "error", "words"),
    [
        (["no/such"], PackagingError, "there is no 'no/such'"),
        ({"../x": b""}, PackagingError, "no place inside"),
        ({"/x": b""}, PackagingError, "no place inside"),
        ({"a\\b": b""}, PackagingError, "no place inside"),
        ({"a//b": b""}, PackagingError, "no place inside"),
        ({"cumulus_package.json": b""}, PackagingError, "of its own"),
        ({".cumulus/x": b""}, PackagingError, "of its own"),
        ({"call.json": b""}, PackagingError, "in the package already"),
        (["."], PackagingError, "no name in the job"),
        ("data", TypeError, "a list of paths"),
        (b"data", TypeError, "a list of paths"),
        ([3], TypeError, "a path or bytes"),
        ({3: b""}, TypeError, "each key of files"),
        ({"a": 3}, TypeError, "a path or bytes"),
    ],
)
def test_files_that_cannot_be_are_refused(
    here: Path, files: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        package_function(work, files=files)


def test_the_old_packager_takes_folders(here: Path) -> None:
    write(here, "main.py", "lib.py")
    packager = CodePackager()
    packager.add_source_file("extra/x.py", "X = 1")
    found = entries(packager.package_directory(str(here), ["numpy"]))
    assert set(found) == {"cumulus_package.json", "main.py", "lib.py", "extra/x.py"}
    assert json.loads(found["cumulus_package.json"])["path"] == "main.py"
    write(here, "__main__.py")
    again = entries(packager.package_directory(here, []))
    assert json.loads(again["cumulus_package.json"])["path"] == "__main__.py"


def test_large_data_that_does_not_shrink_is_stored() -> None:
    contents = Contents("x")
    noise, zeros = os.urandom(2 << 20), bytes(2 << 20)
    contents.add("noise", noise)
    contents.add("zeros", zeros)
    packed = Package(name="x", data=contents.zipped({"version": 1}))
    with zipfile.ZipFile(io.BytesIO(packed.whole())) as archive:
        assert archive.getinfo("noise").compress_type == zipfile.ZIP_STORED
        assert archive.getinfo("zeros").compress_size < 100_000
        assert archive.read("noise") == noise and archive.read("zeros") == zeros


def test_a_file_that_vanishes_is_told(tmp_path: Path) -> None:
    contents = Contents("x")
    path = tmp_path / "a"
    path.write_bytes(b"1")
    contents.add_file("a", path)
    path.unlink()
    with pytest.raises(PackagingError, match="/a' can't be read: No such file"):
        contents.zipped({})
