"""The page's files: which are served, as what, and that the page asks for nothing else."""

import re
from pathlib import Path

import pytest

from cumulusd.errors import NotFound
from cumulusd.web.page_site import FOLDER, INDEX, PageSite

FILES = sorted(path.name for path in FOLDER.iterdir())


@pytest.mark.parametrize("name", FILES)
def test_every_file_is_served_as_what_it_is(name: str) -> None:
    answer = PageSite().answer(name, None)
    assert answer.body == (FOLDER / name).read_bytes()
    kinds = {
        "html": "text/html",
        "css": "text/css",
        "js": "text/javascript",
        "svg": "image/svg+xml",
    }
    assert answer.content_type.startswith(kinds[name.rpartition(".")[2]])
    assert "script-src 'self'" in answer.headers["Content-Security-Policy"]
    assert "unsafe" not in answer.headers["Content-Security-Policy"]


def test_a_browser_that_has_it_is_told_so() -> None:
    site = PageSite()
    tag = site.answer(INDEX, None).headers["ETag"]
    for header in (tag, f"W/{tag}", f'"other", {tag}'):
        answer = site.answer(INDEX, header)
        assert (answer.status, answer.body) == (304, b"")
    assert site.answer(INDEX, '"other"').status == 200
    assert site.answer("app.js", tag).status == 200


def test_nothing_else_is_there(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("private")
    (tmp_path / "inner.js").mkdir()
    (tmp_path / "a.js").write_text("a")
    site = PageSite(tmp_path)
    assert site.answer("a.js", None).body == b"a"
    for name in ("notes.txt", "inner.js", "b.js", "", "../page_site.py", "a.js/"):
        with pytest.raises(NotFound):
            site.answer(name, None)


@pytest.mark.parametrize("name", FILES)
def test_no_file_names_a_host_or_makes_markup_of_texts(name: str) -> None:
    text = (FOLDER / name).read_text()
    text = text.replace("http://www.w3.org/", "")  # the names of namespaces
    assert not re.search(r"(https?:)?//[a-z0-9-]+\.[a-z]", text), "no outside host"
    for word in (
        "innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function",
        "srcdoc", "javascript:", "DOMParser",
    ):  # fmt: skip
        assert word not in re.sub(r"//.*", "", text), word


def test_all_that_the_modules_import_is_there() -> None:
    for name in FILES:
        if name.endswith(".js"):
            for wanted in re.findall(r'from "\./([^"]+)"', (FOLDER / name).read_text()):
                assert wanted in FILES, f"{name} imports {wanted}"
    for wanted in re.findall(r'"/page/([^"]+)"', (FOLDER / INDEX).read_text()):
        assert wanted in FILES
