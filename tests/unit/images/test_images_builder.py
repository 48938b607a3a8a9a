"""What images/build decides: the recipe, the keys, where packages come from; and how it writes."""

import hashlib
import json
import os
import tarfile
import tomllib
from pathlib import Path

import pytest
from builder import archive, recipe, rootfs, settings, tree
from builder.errors import BuildError
from builder.rootfs import LayerCache, remove_tree
from builder.wheels import Wheels

ROOT = Path(__file__).parents[3]
BUNDLE = "-----BEGIN CERTIFICATE-----\nQUJD\n-----END CERTIFICATE-----\n"


def gather(environ: dict[str, str] | None = None, **flags: object) -> settings.Settings:
    wanted = {"ca_bundle": None, "index_url": None, "apt_mirror": None, "install_ca": False}
    return settings.gather(environ or {}, **{**wanted, **flags})


@pytest.fixture
def context(tmp_path: Path) -> Path:
    folder = tmp_path / "context"
    recipe.make_context(folder)
    gather(ca_bundle=None).write(folder / "common" / "settings")
    return folder


# --- the recipe


def test_both_images_share_their_lower_layers(context: Path) -> None:
    job, agent = (recipe.read_recipe(name).layer_keys(context) for name in ("job", "agent"))
    assert job[:2] == agent[:2]
    assert not set(job[2:]) & set(agent[2:])


def test_the_recipe_says_how_the_container_starts() -> None:
    job, agent = recipe.read_recipe("job"), recipe.read_recipe("agent")
    assert job.user == "1000:1000" and agent.user == "0:0"
    assert agent.command == ("python3", "-m", "cumulusd.agent")
    assert any(one.startswith("PATH=") for one in job.environment)


def test_what_the_other_way_can_not_do_is_refused() -> None:
    with pytest.raises(
        BuildError, match=r"Dockerfile:2: 'RUN make' can't be done without an engine"
    ):
        recipe.parse_recipe("job", "FROM x\nRUN make\n", "Dockerfile")


def test_a_layer_is_made_anew_when_what_it_is_made_from_changes(context: Path) -> None:
    one = recipe.read_recipe("job")
    before = one.layer_keys(context)
    (context / "job" / "code" / "cumulus_runner" / "__main__.py").write_text("changed")
    code = one.layer_keys(context)
    assert code[:-1] == before[:-1] and code[-1] != before[-1]
    (context / "common" / "packages.apt").write_text("hello\n")
    assert not set(one.layer_keys(context)) & set(before)


def test_the_opencl_layer_is_compiled_anew_when_its_source_changes(context: Path) -> None:
    job, agent = recipe.read_recipe("job"), recipe.read_recipe("agent")
    before, agents = job.layer_keys(context), agent.layer_keys(context)
    names = [step.script for step in job.steps]
    at = names.index("steps/layer.sh")
    sources = context / "job" / "opencl_layer"
    assert not list(sources.rglob("*.md")) and not (sources / "build").exists()
    for changed in ("accounts.c", "layer.h", "Makefile"):
        with open(sources / changed, "a") as file:
            file.write("\n")
        now = job.layer_keys(context)
        assert now[:at] == before[:at] and not set(now[at:]) & set(before[at:]), changed
        before = now
    (context / "job" / "code" / "cumulus_runner" / "__main__.py").write_text("changed")
    assert job.layer_keys(context)[: at + 1] == before[: at + 1]
    assert agent.layer_keys(context) == agents


def test_where_packages_come_from_changes_no_layer(tmp_path: Path, context: Path) -> None:
    one = recipe.read_recipe("agent")
    before = one.content(context)
    gather({"http_proxy": "http://proxy:3128"}, apt_mirror="http://other/debian").write(
        tmp_path / "settings"
    )
    (tmp_path / "settings").rename(context / "common" / "settings2")
    assert one.content(context) == before


def test_versions_are_those_of_the_project(context: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = [
        line
        for name in ("common", "agent")
        for line in (context / name / "python.txt").read_text().splitlines()
    ]
    assert len(listed) == len(set(listed))
    wanted = {*project["dependencies"], *project["optional-dependencies"]["agent"]}
    clients = {line for line in wanted if line.startswith(recipe.CLIENT_PYTHON)}
    assert len(clients) == len(recipe.CLIENT_PYTHON)
    assert wanted - clients <= set(listed) and clients.isdisjoint(listed)


def test_the_context_holds_code_and_no_byte_code(context: Path) -> None:
    assert (context / "job" / "code" / "cumulus_wire" / "journal.py").is_file()
    assert (context / "agent" / "code" / "cumulusd" / "agent" / "service.py").is_file()
    assert not (context / "job" / "code" / "cumulusd").exists()
    assert not list(context.rglob("*.pyc"))


# --- settings


def test_flags_come_before_the_environment(tmp_path: Path) -> None:
    environ = {"UV_DEFAULT_INDEX": "http://uv/simple", "PIP_INDEX_URL": "http://pip/simple"}
    assert gather(environ).pip["PIP_INDEX_URL"] == "http://uv/simple"
    by_flag = gather(environ, index_url="http://flag/simple")
    assert by_flag.pip["PIP_INDEX_URL"] == "http://flag/simple"
    missing = tmp_path / "missing.pem"
    with pytest.raises(BuildError, match=r"no CA bundle at .*missing\.pem"):
        gather({"SSL_CERT_FILE": str(missing)})


def test_the_steps_read_what_was_given(tmp_path: Path) -> None:
    bundle = tmp_path / "ca.pem"
    bundle.write_text(BUNDLE * 2)
    gather(
        {"HTTPS_PROXY": "http://user:it's@proxy:1", "PIP_TRUSTED_HOST": "pip"},
        ca_bundle=str(bundle),
        apt_mirror="https://mirror/debian",
        install_ca=True,
    ).write(tmp_path / "settings")
    written = (tmp_path / "settings" / "environment").read_text()
    for line in (
        """export https_proxy='http://user:it'"'"'s@proxy:1'""",
        """export HTTPS_PROXY='http://user:it'"'"'s@proxy:1'""",
        "export PIP_TRUSTED_HOST=pip",
        "export PIP_CERT=/cumulus-build/common/settings/ca.crt",
    ):
        assert line in written.splitlines()
    assert (tmp_path / "settings" / "sources.list").read_text() == (
        "deb https://mirror/debian bookworm main\ndeb https://mirror/debian bookworm-updates main\n"
    )
    certificates = sorted((tmp_path / "settings" / "install-ca").iterdir())
    assert [path.read_text() for path in certificates] == [BUNDLE, BUNDLE]
    assert (tmp_path / "settings").stat().st_mode & 0o777 == 0o700


def test_certificates_are_kept_only_from_a_bundle_that_was_named(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="--install-ca needs a bundle"):
        gather(install_ca=True)
    empty = tmp_path / "empty.pem"
    empty.write_text("no certificate\n")
    with pytest.raises(BuildError, match="holds no PEM certificate"):
        gather(ca_bundle=str(empty), install_ca=True).write(tmp_path / "settings")


SOURCES = """\
Types: deb deb-src
URIs: http://mirror/debian/
Suites: {own} {own}-updates {own}-backports
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Enabled: no
Types: deb
URIs: http://off/debian
Suites: {own}
Components: main
"""
LIST = """\
deb [signed-by=/usr/share/keyrings/debian-archive.gpg] https://s/debian {own}-security main
# deb http://comment/debian {own} main
deb [signed-by=/etc/apt/keyrings/other.gpg] http://other/packages {own} main
deb http://browser/deb stable main
deb-src http://sources/debian {own} main
"""


def test_the_mirrors_are_this_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sources.list.d").mkdir()
    for own in ("bookworm", "trixie"):  # another release's mirror has ours as well
        monkeypatch.setattr(settings, "_own_codename", lambda own=own: [own])
        (tmp_path / "sources.list").write_text(LIST.format(own=own))
        (tmp_path / "sources.list.d" / "debian.sources").write_text(SOURCES.format(own=own))
        lines = [one.line() for one in settings._archives(tmp_path)]
        assert lines == [
            "deb http://mirror/debian bookworm main\n",
            "deb https://s/debian bookworm-security main\n",
            "deb http://mirror/debian bookworm-updates main\n",
        ]


def test_without_a_mirror_it_says_what_to_give(tmp_path: Path) -> None:
    none = settings.Settings(
        archives=settings._archives(tmp_path),
        ca_bundle=None,
        proxies={},
        pip={},
        wheels=Wheels(),
        apt_lines=(),
        install_ca=False,
    )
    with pytest.raises(BuildError, match="--apt-mirror URL"):
        _ = none.mirror


# --- layers and archives


def test_a_layer_holds_what_changed_and_marks_what_is_gone(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "gone" / "deeper").mkdir(parents=True)
    for name in ("etc/same", "etc/changed", "etc/old", "gone/deeper/file"):
        (root / name).write_text("before")
    before = archive.snapshot(root)
    about = (root / "etc" / "changed").stat()
    (root / "etc" / "changed").write_text("AFTER!")  # same size, and the same time:
    os.utime(root / "etc" / "changed", ns=(about.st_atime_ns, about.st_mtime_ns))
    (root / "etc" / "old").unlink()
    (root / "gone" / "deeper" / "file").unlink()
    (root / "gone" / "deeper").rmdir()
    (root / "gone").rmdir()
    (root / "etc" / "new").write_text("new")
    (root / "etc" / "link").symlink_to("new")
    os.link(root / "etc" / "new", root / "etc" / "other-name")
    (root / "etc" / "resolv.conf").write_text("nameserver 192.0.2.1")
    (root / "tmp").mkdir()
    (root / "tmp" / "rubbish").write_text("")
    digest = archive.write_layer(root, before, 0.0, tmp_path / "layer.tar")
    assert digest == hashlib.sha256((tmp_path / "layer.tar").read_bytes()).hexdigest()
    with tarfile.open(tmp_path / "layer.tar") as tar:
        names = {entry.name: entry for entry in tar}
    assert set(names) - {"etc"} == {
        ".wh.gone",
        "etc/.wh.old",
        "etc/changed",
        "etc/new",
        "etc/link",
        "etc/other-name",
        "tmp",
    }
    assert names["etc/other-name"].islnk() and names["etc/link"].issym()
    assert names["tmp"].mode == 0o1777
    assert {entry.mtime for entry in names.values()} == {archive.BUILD_TIME_S}


def test_the_same_layers_are_the_same_image(tmp_path: Path, context: Path) -> None:
    layer = tmp_path / "a.tar"
    with tarfile.open(layer, "w") as tar:
        link = tarfile.TarInfo("usr/bin/python3")
        link.type, link.linkname = tarfile.SYMTYPE, "python3.13"
        tar.addfile(link)
    one = recipe.read_recipe("job")
    layers = [archive.Layer(layer, archive.sha256_of(layer))]
    first = archive.write_image(one, "content", layers, tmp_path / "1.tar")
    second = archive.write_image(one, "content", layers, tmp_path / "2.tar")
    assert first == second == archive.loaded_id(tmp_path / "1.tar")
    assert (tmp_path / "1.tar").read_bytes() == (tmp_path / "2.tar").read_bytes()
    with tarfile.open(tmp_path / "1.tar") as tar:
        manifest = json.load(tar.extractfile("manifest.json"))[0]
        config = json.load(tar.extractfile(manifest["Config"]))
    assert manifest["RepoTags"] == ["cumulus-job:latest"]
    assert config["rootfs"]["diff_ids"] == [f"sha256:{layers[0].diff_id}"]
    assert config["config"]["Labels"]["cumulus.content"] == "content"
    assert config["config"]["Labels"]["cumulus.python"] == "3.13"
    assert config["config"]["Labels"]["org.opencontainers.image.version"] == recipe.version()


def test_the_cache_has_whole_layers_only(tmp_path: Path) -> None:
    cache = LayerCache(tmp_path / "cache")
    cache.draft("k").write_bytes(b"half")
    assert cache.get("k") is None
    cache.put("k", "d")
    assert cache.get("k") == archive.Layer(tmp_path / "cache" / "k.tar", "d")
    cache.draft("left").write_bytes(b"half")
    (tmp_path / "cache" / ".lock").touch()
    cache.keep_only({"other"})
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_a_folder_with_something_mounted_in_it_is_not_deleted() -> None:
    mounted = Path("/dev/shm")
    if not os.path.ismount(mounted):
        pytest.skip("nothing is mounted at /dev/shm here")
    with pytest.raises(BuildError, match="still mounted"):
        remove_tree(mounted.parent)


@pytest.mark.parametrize(("suite", "script"), [("bookworm", []), ("next-but-one", ["sid"])])
def test_a_release_that_debootstrap_does_not_know_is_made_as_sid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suite: str, script: list[str]
) -> None:
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    (scripts / "bookworm").touch()
    monkeypatch.setattr(rootfs, "_SCRIPTS", scripts)
    ran: list[list[str]] = []
    monkeypatch.setattr(
        rootfs, "_run", lambda command, what, environment: ran.append([*map(str, command)])
    )
    wanted = gather(apt_mirror="http://mirror/debian", ca_bundle=None)
    rootfs.debootstrap(tmp_path / "root", wanted, work=tmp_path, suite=suite, packages=["a", "b"])
    (words,) = ran
    included = words.index("--include=a,b")
    root, mirror = str(tmp_path / "root"), "http://mirror/debian"
    assert words[included + 1 :] == [suite, root, mirror, *script]


def test_a_tree_that_is_there_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "trixie"
    folder.mkdir()
    (folder / "file").touch()
    assert tree.main(["trixie", str(folder), "docker.io"]) == 0
    assert sorted(path.name for path in tmp_path.rglob("*")) == [".lock", "file", "trixie"]
