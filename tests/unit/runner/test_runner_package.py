"""Unpacking: hostile packages are refused, whatever they claim."""

import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from runner_kit import JobFolder

from cumulus_runner import package, small_zip
from cumulus_runner.package import PackageInvalid
from cumulus_wire import folder


def nothing() -> None:
    """The tick of an unpacking that nobody stops."""


def refused(archive: Path, target: Path, max_bytes: int = 10_000, max_files: int = 10) -> str:
    with pytest.raises(PackageInvalid) as caught:
        package.unpack(str(archive), str(target), max_bytes, max_files, nothing)
    return str(caught.value)


def make(path: Path, *entries: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    archive = path / "p.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in entries:
            file.writestr(name, content)
    return archive


def entry(name: str, mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


def test_a_good_package(tmp_path: Path) -> None:
    archive = make(
        tmp_path,
        ("a.txt", b"A" * 5000),
        ("d/e/f.bin", bytes(range(256))),
        (entry("run.sh", stat.S_IFREG | 0o750), b"#!/bin/sh\n"),
        (entry("empty/", stat.S_IFDIR | 0o755), b""),
    )
    work = tmp_path / "work"
    package.unpack(str(archive), str(work), 10_000, 10, nothing)
    assert (work / "a.txt").read_bytes() == b"A" * 5000
    assert (work / "d/e/f.bin").read_bytes() == bytes(range(256))
    assert (work / "run.sh").stat().st_mode & 0o111 and (work / "empty").is_dir()
    assert not (work / "a.txt").stat().st_mode & 0o111


@pytest.mark.parametrize(
    "name",
    ["../out", "a/../../out", "/out", "a\\..\\out", "..", ".", "x" * 300, "a/" * 600 + "b"],
)
def test_paths_that_lead_out(tmp_path: Path, name: str) -> None:
    archive = make(tmp_path, ("fine", b""), (zipfile.ZipInfo(name), b"evil"))
    before = set(tmp_path.rglob("*"))
    assert "forbidden path" in refused(archive, tmp_path / "work")
    assert set(tmp_path.rglob("*")) - before <= {tmp_path / "work"}


def test_an_entry_without_a_name(tmp_path: Path) -> None:
    """`zipfile` asks its name for its last character, to see whether it is a folder."""
    for number, name in enumerate(("x", "\0x")):
        archive = make(tmp_path, (zipfile.ZipInfo("x"), b"evil"))
        data = archive.read_bytes()
        if not name.startswith("\0"):
            # Of the directory: the name's length, then the name.
            central = data.index(b"PK\x01\x02")
            header = bytearray(data[central : central + 46])
            header[28:30] = b"\0\0"
            end = bytearray(data[central + 47 :])
            end[12:16] = (46).to_bytes(4, "little")
            data = data[:central] + bytes(header) + bytes(end)
        else:
            data = data.replace(b"x", b"\0")
        archive.write_bytes(data)
        assert "forbidden path" in refused(archive, tmp_path / f"work{number}")


@pytest.mark.parametrize(
    "mode", [stat.S_IFLNK | 0o777, stat.S_IFCHR | 0o666, stat.S_IFIFO | 0o666, stat.S_IFSOCK]
)
def test_what_is_no_plain_file(tmp_path: Path, mode: int) -> None:
    archive = make(tmp_path, (entry("link", mode), b"/etc/passwd"))
    assert "no plain file" in refused(archive, tmp_path / "work")


def test_the_same_path_twice(tmp_path: Path) -> None:
    for number, twice in enumerate(("a", "./a", ".//a")):
        archive = tmp_path / "p.zip"
        with zipfile.ZipFile(archive, "w") as file, pytest.MonkeyPatch.context() as patch:
            patch.setattr("warnings.warn", lambda *_, **__: None)  # zipfile sees it too
            file.writestr("a", b"1")
            file.writestr(zipfile.ZipInfo(twice), b"2")
        assert "twice" in refused(archive, tmp_path / f"work{number}")


def test_a_path_both_file_and_folder(tmp_path: Path) -> None:
    archive = make(tmp_path, ("a", b"1"), ("a/b", b"2"))
    assert "both as file and as folder" in refused(archive, tmp_path / "work")


def test_too_many_entries(tmp_path: Path) -> None:
    archive = make(tmp_path, *[(f"f{i}", b"") for i in range(11)])
    assert "11 entries; 10" in refused(archive, tmp_path / "work")


def test_too_many_bytes_in_all(tmp_path: Path) -> None:
    archive = make(tmp_path, ("a", b"0" * 6000), ("b", b"0" * 6000))
    assert "12000 bytes; 10000" in refused(archive, tmp_path / "work")


def test_a_bomb_that_lies_about_its_size(tmp_path: Path) -> None:
    archive = make(tmp_path, ("bomb", b"0" * 50_000_000))
    data = bytearray(archive.read_bytes())
    central = data.index(b"PK\x01\x02")
    struct.pack_into("<I", data, central + 24, 100)
    archive.write_bytes(data)
    refused(archive, tmp_path / "work")
    assert sum(p.stat().st_size for p in (tmp_path / "work").rglob("*")) <= 10_000


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_are_refused(tmp_path: Path, method: int) -> None:
    archive = tmp_path / "p.zip"
    with zipfile.ZipFile(archive, "w", method) as file:
        file.writestr("a", b"1" * 100)
    assert "neither stored nor deflated" in refused(archive, tmp_path / "work")


def test_an_encrypted_entry(tmp_path: Path) -> None:
    archive = make(tmp_path, ("a", b"1"))
    data = bytearray(archive.read_bytes())
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(data)
    assert "encrypted" in refused(archive, tmp_path / "work")


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=8))
def test_damaged_packages_are_refused_or_unpacked(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]]
) -> None:
    tmp_path = tmp_path_factory.mktemp("damaged")
    archive = make(tmp_path, ("a.txt", b"A" * 50), ("d/ü.bin", bytes(range(64))))
    data = bytearray(archive.read_bytes())
    for position, value in changes:
        data[position % len(data)] = value
    archive.write_bytes(data)
    try:
        package.unpack(str(archive), str(tmp_path / "work"), 10_000, 10, nothing)
    except PackageInvalid as error:
        assert str(error)
    outside = {p for p in tmp_path.rglob("*") if tmp_path / "work" not in (p, *p.parents)}
    assert outside == {archive}


def test_unpacking_can_be_stopped(tmp_path: Path) -> None:
    class Enough(Exception):
        pass

    def tick() -> None:
        raise Enough

    archive = make(tmp_path, ("a", b"1"))
    with pytest.raises(Enough):
        package.unpack(str(archive), str(tmp_path / "work"), 100, 10, tick)


def test_the_job_is_told(new_job: Callable[..., JobFolder]) -> None:
    job = new_job().package({"../evil": "x"})
    end = job.run()
    assert (end["outcome"], end["reason"]) == ("failed", "package_invalid")
    assert "../evil" in end["message"] and not (job.path / "evil").exists()
    job = new_job()
    (job.path / folder.PACKAGE).write_bytes(b"no zip")
    assert job.run()["reason"] == "package_invalid"
    message = new_job().package({"a": "x"}).run()["message"]
    assert message.startswith(f"the package has no {folder.MANIFEST}")
    deep = new_job().package({folder.MANIFEST: "[" * 5000 + "]" * 5000}).run()
    assert deep["reason"] == "package_invalid" and "is no JSON" in deep["message"]
    end = new_job(package_max_bytes=10).function("def f(): pass").run()
    assert end["reason"] == "package_invalid" and "10 are allowed" in end["message"]


def usual(path: Path) -> Path:
    return make(
        path,
        ("cumulus_package.json", b'{"version": 1}' * 20),
        ("task/f.py", b"def f(): pass"),
        ("r\u00e9sum\u00e9.txt", b""),
        (entry("empty/", stat.S_IFDIR | 0o755), b""),
    )


def test_small_plain_packages_need_no_zipfile(tmp_path: Path) -> None:
    found = small_zip.read(str(usual(tmp_path)))
    assert found is not None
    with zipfile.ZipFile(tmp_path / "p.zip") as file:
        told = [
            (one.filename, one.external_attr, one.compress_type, one.flag_bits, file.read(one))
            for one in file.infolist()
        ]
    assert told == [
        (one.filename, one.external_attr, one.compress_type, one.flag_bits, one.data)
        for one in found
    ]


def test_what_is_not_plain_is_left_to_zipfile(tmp_path: Path) -> None:
    data = usual(tmp_path).read_bytes()
    archive = tmp_path / "other.zip"
    with zipfile.ZipFile(tmp_path / "p.zip", "a") as file:
        file.comment = b"told"
    others = {
        "a comment": (tmp_path / "p.zip").read_bytes(),
        "something in front": b"#!/bin/sh\n" + data,
        "something behind": data + b"x",
        "large": make(tmp_path, ("a", bytes(small_zip.MAX_UNPACKED_BYTES + 1))).read_bytes(),
        "many": make(
            tmp_path, *((str(n), b"") for n in range(small_zip.MAX_ENTRIES + 1))
        ).read_bytes(),
        "nothing": b"",
        "half": data[:-40],
    }
    for what, content in others.items():
        archive.write_bytes(content)
        assert small_zip.read(str(archive)) is None, what


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(changes=st.lists(st.tuples(st.integers(0, 10_000), st.integers(1, 255)), max_size=3))
def test_what_is_read_without_zipfile_is_what_zipfile_reads(
    tmp_path: Path, changes: list[tuple[int, int]]
) -> None:
    data = bytearray(usual(tmp_path).read_bytes())
    for place, change in changes:
        data[place % len(data)] ^= change
    archive = tmp_path / "damaged.zip"
    archive.write_bytes(data)
    found = small_zip.read(str(archive))
    assert changes or found is not None
    if found is not None:
        with zipfile.ZipFile(archive) as file:
            told = [(one.orig_filename, file.read(one)) for one in file.infolist()]
        assert told == [(one.orig_filename, one.data) for one in found]
