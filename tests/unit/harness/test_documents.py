"""What documents say is there: files and headings, commands and options, settings, metrics, codes,
names on the wire, environment variables."""

import argparse
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, ValidationError

from cumulus_client.cli.command import VERBS
from cumulus_wire import uris
from cumulus_wire.codes import ErrorCode
from cumulusd.cli import make_parser
from cumulusd.config import Config
from cumulusd.config_faults import section_in
from cumulusd.daemon import Options
from cumulusd.errors import BY_CODE
from tests.documents import (
    ROOT,
    Found,
    anchors,
    blocks,
    commands,
    dead_links,
    documents,
    inline,
    quoted,
    said_somewhere,
    texts_of_code,
)

DOCUMENTS = documents()


def named(paths: list[Path]) -> Any:
    return pytest.mark.parametrize("path", paths, ids=[str(one.relative_to(ROOT)) for one in paths])


#: News name what has gone, too.
each_document = named([path for path in DOCUMENTS if path.parent.name != "changelog.d"])
#: Scripts whose command lines are held by their own text.
_SCRIPTS = re.compile(r"(script|provision|images|bench)/[a-z_./-]+")
#: Other programs' files, by a key at their top.
FOREIGN_YAML = {"scrape_configs", "rule_files", "groups", "global", "services", "apiVersion"}
#: What a snippet may lack here: files and variables of an operator's machine.
_ELSEWHERE = (
    "no file at",
    "can't be read",
    "is not set",
    "needs the environment variable CREDENTIALS_DIRECTORY",
    "there is no folder",
    "no executable file",
    "can't be listened on",
)


# -- links


@named(DOCUMENTS)
def test_links_lead_somewhere(path: Path) -> None:
    assert not dead_links(path)


def test_dead_links_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.documents.ROOT", tmp_path)
    (tmp_path / "b.md").write_text("# The `x` of: it\n```sh\n# no heading\n```\n# A\n# A\n")
    page = tmp_path / "a.md"
    page.write_text(
        "[one](b.md#the-x-of-it) [two](b.md#no-heading) [three](c.md) [four](#nowhere)\n"
        "[five](b.md#a-1) [six](https://x.example/y) `[no](link.md)`\n![seven](d.png)\n"
    )
    assert anchors((tmp_path / "b.md").read_text()) == {"the-x-of-it", "a", "a-1"}
    assert [told.split(": ", 1)[1] for told in dead_links(page)] == [
        "b.md#no-heading: no such heading",
        "c.md: no such file",
        "#nowhere: no such heading",
        "d.png: no such file",
    ]


# -- commands


def wrong_words(parser: argparse.ArgumentParser, words: list[str], rest: bool) -> str | None:
    """A subcommand or an option that the parser doesn't know; None when it knows them. `rest`: what
    follows the first word that is no option's value is somebody else's."""
    takes_value = {
        name: action.nargs != 0 for action in parser._actions for name in action.option_strings
    }
    below: Any = next((a for a in parser._actions if isinstance(a.choices, dict)), None)
    at = 0
    while at < len(words):
        word = words[at]
        at += 1
        if word == "--":
            return None
        if word.startswith("-") and word != "-":
            name, equals, _ = word.partition("=")
            if name not in takes_value and name[:2] in takes_value and not name.startswith("--"):
                continue  # short ones in one word
            if name not in takes_value:
                return f"{parser.prog} has no option {name}"
            at += takes_value[name] and not equals
        elif below is not None:
            names = word.split("|")  # in prose: `token create|list`
            if unknown := [name for name in names if name not in below.choices]:
                return f"{parser.prog} has no command {unknown[0]}"
            return wrong_words(below.choices[names[0]], words[at:], rest)
        elif rest:
            return None
    return None


def wrong_command(words: list[str]) -> str | None:
    """What of a command of ours isn't there; None when all is, or it is somebody else's."""
    name = words[0].rsplit("/", 1)[-1]
    found = _SCRIPTS.fullmatch(words[0].removeprefix("./"))
    if found is not None:
        return wrong_script(ROOT / found[0], words[1:])
    if name == "cumulus":
        verbs = [*VERBS, "help"]
        first = next(iter(words[1:]), "--help")
        if first in ("--help", "--version", "-h", "VERB"):
            return None
        for verb in first.split("|"):
            if verb not in verbs:
                return f"cumulus has no verb {verb}"
            if verb == "help":
                continue
            wrong = wrong_words(VERBS[verb].parser(), words[2:], VERBS[verb].words)
            if wrong is not None:
                return wrong
        return None
    if name == "cumulusd":
        return wrong_words(make_parser(), words[1:], False)
    if name == "twistd" and "cumulusd" in words:
        known = [f"--{one[0]}" for one in Options.optParameters]
        known += [f"-{one[1]}" for one in Options.optParameters]
        given = words[words.index("cumulusd") + 1 :]
        return next(
            (f"twistd cumulusd has no option {word}" for word in given
             if word.startswith("-") and word.partition("=")[0] not in known),
            None,
        )  # fmt: skip
    return None


def wrong_script(script: Path, words: list[str]) -> str | None:
    if script.is_dir():
        return None
    if not script.is_file():
        return f"there is no {script.relative_to(ROOT)}"
    if script.name == "test":
        return None  # what it doesn't know itself is pytest's
    text = script.read_text()
    # A short script hands on to a package beside it, or to one of the repository's.
    for package in re.findall(r"(?:^from|-m) ([a-z_]+)", text, re.MULTILINE):
        for folder in (script.parent / package, ROOT / package):
            text += "".join(each.read_text() for each in sorted(folder.glob("*.py")))
    for word in words:
        option = word.partition("=")[0]
        if re.fullmatch(r"--[a-z][a-z-]*", option) and option not in text:
            return f"{script.relative_to(ROOT)} knows no {option}"
    return None


def handed_by_curl(found: list[Found]) -> Iterator[Found]:
    """`curl …/provision/worker.sh | bash -s -- ARGUMENTS` as a command of that script."""
    for fetch, shell in itertools.pairwise(found):
        script = re.search(r"/(provision/[a-z]+\.sh)(?:\0|$)", fetch.text)
        words = shell.text.split("\0")
        if script is not None and words[0] == "bash" and "--" in words:
            given = words[words.index("--") + 1 :]
            yield Found(shell.document, shell.line, "\0".join([script[1], *given]))


def all_commands(path: Path) -> Iterator[Found]:
    for block in blocks(path, "sh"):
        found = list(commands(block))
        yield from found
        yield from handed_by_curl(found)
    for span in inline(path):
        head = span.text.split(" ", 1)[0]
        if " " in span.text and re.search(r"(^|/)(cumulus|cumulusd|twistd)$", head):
            bare = re.sub(r"\$\([^()]*\)|[\[\]…]|\.\.\.", " ", span.text)
            yield Found(span.document, span.line, "\0".join(bare.split()))
        elif _SCRIPTS.fullmatch(head):
            yield Found(span.document, span.line, "\0".join(span.text.split()))


@each_document
def test_commands_are_there_with_their_options(path: Path) -> None:
    wrong = []
    for command in all_commands(path):
        told = wrong_command(command.text.split("\0"))
        if told is not None:
            wrong.append(f"{command.document}:{command.line}: {told}")
    assert not wrong


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("cumulus run --gpu-memory 0.5 a.py --anything", None),
        ("A=b .venv/bin/cumulus fly", "cumulus has no verb fly"),
        ("cumulus jobs --colour", "cumulus jobs has no option --colour"),
        ("cumulusd token create --name a --role client", None),
        ("cumulusd token make", "cumulusd token has no command make"),
        ("x=$(cumulusd chek-config f)", "cumulusd has no command chek-config"),
        ("cumulusd store check --confg f | less", "cumulusd store check has no option --confg"),
        ("twistd -n cumulusd --konfig f", "twistd cumulusd has no option --konfig"),
        ("script/nothing", "there is no script/nothing"),
        ("sudo script/swarm up --moons 3", "script/swarm knows no --moons"),
        ("ls --colour && script/swarm up --nodes \\\n  3", None),
    ],
)
def test_stale_commands_are_found(line: str, told: str | None) -> None:
    found = [
        wrong_command(one.text.split("\0")) for one in commands(Found("page.md", 1, line + "\n"))
    ]
    assert [one for one in found if one is not None] == ([] if told is None else [told])


# -- settings


def faults_of_snippet(data: Any) -> list[str]:
    """What the validator says of a snippet, but for what an operator's machine has."""
    try:
        Config.model_validate(data, context={"folder": Path("/etc/cumulus"), "environ": {}})
    except ValidationError as error:
        return [
            f"{'.'.join(map(str, one['loc']))}: {one['msg']}"
            for one in error.errors()
            if one["type"] != "missing" and not any(words in one["msg"] for words in _ELSEWHERE)
        ]
    return []


@each_document
def test_snippets_of_configuration_are_taken(path: Path) -> None:
    for block in blocks(path, "yaml"):
        data = yaml.safe_load(block.text)
        if isinstance(data, dict) and not FOREIGN_YAML & data.keys():
            assert not faults_of_snippet(data), f"{block.document}:{block.line}"


def test_a_stale_snippet_is_found() -> None:
    assert faults_of_snippet({"jobs": {"histroy_hours": 24}})
    assert faults_of_snippet({"log": {"level": "loud"}})
    assert not faults_of_snippet({"jobs": {"ca_bundle": "company.pem"}})


def setting_exists(key: str) -> bool:
    model: type[BaseModel] | None = Config
    for part in key.split("."):
        if model is None:
            return True  # below a free mapping
        if part not in model.model_fields:
            return False
        model = section_in(model.model_fields[part].annotation)
    return True


SECTIONS = {name for name, field in Config.model_fields.items() if section_in(field.annotation)}


@named([path for path in DOCUMENTS if path.name not in ("protocol.md",)])
def test_settings_are_there(path: Path) -> None:
    """But for the page of the wire, whose objects have parts of such names."""
    wrong = [
        str(span)
        for span in inline(path)
        if (found := re.fullmatch(r"([a-z0-9_]+(?:\.[a-z0-9_]+)+)(: .*)?", span.text))
        and found[1].split(".")[0] in SECTIONS
        and not re.search(r"\.(py|yaml|json|sock|md|js|sh)$", found[1])
        and not setting_exists(found[1])
    ]
    assert not wrong


# -- names


#: Where our environment variables are read, or set for jobs and tests.
SOURCES = ("cumulus_client", "cumulus_runner", "cumulus_wire", "cumulusd", "engines", "images")
SOURCES += ("bench", "provision", "script", "systemd", "tests")
#: Named to say that they are no more.
GONE = {"CUMULUS_ENABLE_JOB_METADATA", "CUMULUS_METADATA_TTL_SECONDS"}


def source_text() -> str:
    files = [each for folder in SOURCES for each in sorted((ROOT / folder).rglob("*"))]
    kinds = ("", ".py", ".sh", ".c", ".h", ".service")
    return "\n".join(
        each.read_text(errors="replace")
        for each in files
        if each.suffix in kinds and each.is_file() and each != Path(__file__)
    )


@pytest.fixture(scope="module")
def source() -> str:
    return source_text()


def metric_names() -> set[str]:
    """As they stand in the code, with what Prometheus's library makes of them."""
    text = "".join(path.read_text() for path in sorted((ROOT / "cumulusd").rglob("*.py")))
    found = set(re.findall(r'"(cumulus_[a-z0-9_]+)"', text))
    return {f"{name}{end}" for name in found for end in ("", "_total", "_bucket", "_sum", "_count")}


PACKAGES = {"cumulus_client", "cumulus_wire", "cumulus_runner"}


@each_document
def test_metrics_are_there(path: Path) -> None:
    known = metric_names()
    assert len(known) > 50
    wrong = []
    for span in (*inline(path), *blocks(path, "yaml"), *blocks(path, "promql")):
        for name in re.findall(r"(?<![\w./-])cumulus_[a-z0-9_]+(?![\w./])", span.text):
            if name in known or name in PACKAGES or name.startswith("cumulus_gpu"):
                continue
            if name.endswith("_") and any(one.startswith(name) for one in known):
                continue  # `cumulus_job_*`
            wrong.append(f"{span.document}:{span.line}: no metric {name}")
    assert not wrong


@each_document
def test_error_codes_are_there(path: Path) -> None:
    known = {code.value for code in ErrorCode}
    assert set(re.findall(r"cumulus\.error\.([a-z_]+)", path.read_text())) <= known


def test_every_error_code_is_documented_with_its_status() -> None:
    text = (ROOT / "docs" / "protocol.md").read_text()
    table = dict(re.findall(r"^\| `([a-z_]+)` \| (\d{3}) \|", text, re.MULTILINE))
    assert table == {code.value: str(cls.status) for code, cls in BY_CODE.items()}


@each_document
def test_procedures_and_topics_are_there(path: Path) -> None:
    known = {value for value in vars(uris).values() if isinstance(value, str)}
    verbs = {"status", "log", *uris.AGENT_VERBS}
    wrong = []
    for span in inline(path):
        for name in re.findall(
            r"\bcumulus\.(?:job|package|worker|server)\.[a-z]+\b(?!\.)", span.text
        ):
            if name not in known and name.rsplit(".", 1)[-1] not in verbs:
                wrong.append(f"{span.document}:{span.line}: {name}")
    assert not wrong


@each_document
def test_environment_variables_are_there(path: Path, source: str) -> None:
    """Of ours; a name that ends with `_` or `<` stands for several."""
    found = set(re.findall(r"\bCUMULUSD?_[A-Z0-9_]*[A-Z0-9]\b", path.read_text()))
    assert [name for name in sorted(found - GONE) if name not in source] == []


# -- what is seen


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return texts_of_code(("cumulusd", "cumulus_client", "cumulus_runner", "provision"))


def test_what_troubleshooting_quotes_is_said(texts: list[str]) -> None:
    quotes = list(quoted(ROOT / "docs" / "troubleshooting.md"))
    assert len(quotes) > 30
    assert [str(one) for one in quotes if not said_somewhere(one.text, texts)] == []


def test_a_stale_quote_is_found(texts: list[str]) -> None:
    assert said_somewhere("can't connect to …: …", texts)
    assert not said_somewhere("can't connect with …", texts)
    assert not said_somewhere("… has expired: the certificate of …", texts)
