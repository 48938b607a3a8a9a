"""Requirements that mean the same are written the same, and only those."""

import pytest

from cumulus_runner.requirements import is_local, normalised


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("six", "  SIX  # a comment"),
        ("zope.interface", "Zope_Interface"),
        ("a-b", "a_.-b"),
        ("six>=1,<2", "six < 2 , >= 1"),
        ("six (>=1)", "six>=1"),
        ("thing[one,two]", "thing [ Two, ONE,one ]"),
        ("thing[]", "thing"),
        ('six; python_version < "3.9"', 'six  ;   python_version   <  "3.9" # old'),
        ("thing @ https://host/thing.whl", "Thing@https://host/thing.whl"),
        ("thing==1.*", "thing == 1.*"),
    ],
)
def test_the_same(one: str, other: str) -> None:
    assert normalised([one]) == normalised([other])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("six", "sixx"),
        ("a-b", "ab"),
        ("six==1.0", "six===1.0"),
        ("six==1.0", "six==1.00"),
        ("six>1", "six>=1"),
        ("six", "six[extra]"),
        ("thing[one]", "thing[two]"),
        ("six", 'six; python_version < "3.9"'),
        ('six; os_name == "a b"', 'six; os_name == "a  b"'),
        ('six; os_name == "A"', 'six; os_name == "a"'),
        ("thing @ https://host/a#sha256=1", "thing @ https://host/a#sha256=2"),
        ("thing @ https://host/a", "thing @ https://host/A"),
        ("thing @ git+https://host/a@Main", "thing @ git+https://host/a@main"),
        ("./A", "./a"),
        ("Thing-1.0-py3-none-any.whl", "thing-1.0-py3-none-any.whl"),
        ("six --hash=sha256:AB", "six --hash=sha256:ab"),
    ],
)
def test_what_differs_is_never_joined(one: str, other: str) -> None:
    assert normalised([one]) != normalised([other])


def test_a_list() -> None:
    assert normalised(["b", "# nothing", " A ", "", "a", "B # x"]) == ["a", "b"]
    assert normalised(["b", "a"]) == normalised(["a", "b", "a"])


@pytest.mark.parametrize("line", ["six bad extra", "six >=", "[x]", "six[bad extra]", "a,b", "é"])
def test_what_isnt_understood_stays(line: str) -> None:
    assert normalised([f" {line} "]) == [line]


@pytest.mark.parametrize(
    ("line", "local"),
    [
        ("six", False),
        ("six>=1; os_name == 'posix'", False),
        ("thing @ https://host/thing.whl", False),
        ("thing @ git+ssh://git@host/thing", False),
        ("https://host/thing-1.0-py3-none-any.whl", False),
        ("git+https://host/thing@main", False),
        ("./thing", True),
        ("/thing", True),
        ("some/folder", True),
        ("thing.whl", True),
        ("thing-1.0.tar.gz", True),
        ("thing @ ./thing", True),
        ("thing @ file:///thing.whl", True),
        ("thing @ git+file:///thing", True),
        ("-e thing", True),
        ("--index-url=https://host", True),
        ("${HOME}/thing", True),
    ],
)
def test_what_names_files_of_the_jobs_own(line: str, local: bool) -> None:
    (form,) = normalised([line])
    assert is_local(form) is local
