"""Folders of packages that pip's settings name, as both ways of building bring them in."""

import shlex
from pathlib import Path

import pytest
from builder.errors import BuildError
from builder.recipe import make_context
from builder.settings import Settings, gather

INSIDE = "/cumulus-build/wheels"


def settings_of(environ: dict[str, str], index_url: str | None = None) -> Settings:
    return gather(environ, ca_bundle=None, index_url=index_url, apt_mirror=None, install_ca=False)


def index_at(folder: Path, link: str) -> Path:
    """A package index of one page, which links to one file."""
    page = folder / "probe" / "index.html"
    page.parent.mkdir(parents=True)
    page.write_text(f'<a href="{link}#sha256=00">probe</a>')
    return folder


def test_folders_and_urls_are_told_to_the_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two", "with space"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    spaced = (tmp_path / "with space").as_uri()
    links = f"{tmp_path}/one https://user:word@host/wheels two {spaced} {tmp_path}/one"
    made = settings_of({"PIP_FIND_LINKS": links, "PIP_NO_INDEX": "1"})
    made.write(tmp_path / "settings")
    written = (tmp_path / "settings" / "environment").read_text().splitlines()
    told = f"{INSIDE}/0 https://user:word@host/wheels {INSIDE}/1 {INSIDE}/2 {INSIDE}/0"
    assert f"export PIP_FIND_LINKS={shlex.quote(told)}" in written
    assert "export PIP_NO_INDEX=1" in written
    assert made.wheels.folders == [tmp_path / name for name in ("one", "two", "with space")]


def test_an_index_comes_with_the_files_that_its_pages_link_to(tmp_path: Path) -> None:
    beside = index_at(tmp_path / "a" / "simple", "../../files/probe-1-py3-none-any.whl")
    within = index_at(tmp_path / "b", "probe-1-py3-none-any.whl")
    remote = index_at(tmp_path / "c", "https://host/files/probe-1-py3-none-any.whl")
    urls = f"{beside.as_uri()} http://host/simple {within.as_uri()}"
    made = settings_of({"PIP_EXTRA_INDEX_URL": urls}, index_url=remote.as_uri())
    assert made.pip == {
        "PIP_EXTRA_INDEX_URL": f"file://{INSIDE}/0/simple http://host/simple file://{INSIDE}/1",
        "PIP_INDEX_URL": f"file://{INSIDE}/2",
    }
    assert made.wheels.folders == [tmp_path / "a", within, remote]


def test_an_index_whose_files_lie_all_over_the_machine_is_refused(tmp_path: Path) -> None:
    index = index_at(tmp_path / "simple", "/elsewhere/probe-1-py3-none-any.whl")
    with pytest.raises(
        BuildError, match=r"PIP_EXTRA_INDEX_URL names file://.*/simple, whose pages"
    ):
        settings_of({"PIP_EXTRA_INDEX_URL": index.as_uri()})


def test_a_folder_that_is_not_there_is_left_out_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "there").mkdir()
    made = settings_of(
        {
            "PIP_FIND_LINKS": f"{tmp_path}/gone {tmp_path}/there",
            "PIP_EXTRA_INDEX_URL": f"file://{tmp_path}/gone",
        }
    )
    assert made.pip == {"PIP_FIND_LINKS": f"{INSIDE}/0"}
    told = capsys.readouterr().err
    assert f"PIP_FIND_LINKS names {tmp_path}/gone, and there is no such folder here" in told
    assert f"PIP_EXTRA_INDEX_URL names file://{tmp_path}/gone, and" in told


def test_a_build_that_can_mount_gets_places_and_the_other_the_wheels(tmp_path: Path) -> None:
    folder = tmp_path / "wheels"
    (folder / "deeper").mkdir(parents=True)
    for name in ("a-1-py3-none-any.whl", "deeper/b-1-py3-none-any.whl", "c-1.tar.gz", "secrets"):
        (folder / name).write_text(name)
    wheels = settings_of({"PIP_FIND_LINKS": str(folder)}).wheels
    for name in ("mounted", "copied"):
        make_context(tmp_path / name)
        assert list((tmp_path / name / "wheels").iterdir()) == []
    place = tmp_path / "mounted" / "wheels" / "0"
    assert wheels.mount_points(tmp_path / "mounted") == [(folder, place)]
    assert list(place.iterdir()) == []
    for _ in range(2):  # for each image of the build
        wheels.copy(tmp_path / "copied")
    place = tmp_path / "copied" / "wheels" / "0"
    found = {str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()}
    assert found == {"a-1-py3-none-any.whl", "deeper/b-1-py3-none-any.whl"}
