"""etc/cumulusd.yaml says what the code does: every key is there, each with its default.

Its comments are of two kinds: text, and settings (`#jobs:`, `#  image: null`), which count once the
`#` is taken away.
"""

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from cumulusd.config import Config, load_config
from cumulusd.config_faults import section_in
from cumulusd.config_listen import is_loopback

ROOT = Path(__file__).parents[3]
SHIPPED = ROOT / "etc" / "cumulusd.yaml"
_SETTING = re.compile(r"#(?=\S|  )(?P<setting> *[a-z_0-9]+:.*| {2,}#.*| {20,}\S.*)")
#: What is set in the file, and differs from the default for the sake of the first five minutes.
SET = {"state_dir", "platform.local.python", "platform.local.count_cpu_devices"}
#: What has no default, or none that means anything: an example stands there.
EXAMPLES = {"platform.swarm.advertise_url", "s3.bucket"}
S3_KEY = {"CUMULUSD_S3_ACCESS_KEY": "a", "CUMULUSD_S3_SECRET_KEY": "b"}


def uncommented(text: str) -> str:
    """The file with every setting set."""
    return "\n".join(
        found["setting"] if (found := _SETTING.fullmatch(line)) else line
        for line in text.splitlines()
    )


def every_key(model: type[BaseModel], above: str = "") -> dict[str, tuple[FieldInfo, bool]]:
    """Dotted key -> (the field, is it a section?). What a list holds is not gone into."""
    found: dict[str, tuple[FieldInfo, bool]] = {}
    for name, field in model.model_fields.items():
        inner = section_in(field.annotation)
        is_section = inner is not None and "tuple" not in str(field.annotation)
        found[above + name] = (field, is_section)
        if inner is not None and is_section:
            found |= every_key(inner, f"{above}{name}.")
    return found


def at(data: Any, key: str) -> Any:
    for part in key.split("."):
        data = data[part]
    return data


@pytest.fixture(scope="module")
def whole() -> Any:
    return yaml.safe_load(uncommented(SHIPPED.read_text()))


KEYS = every_key(Config)
#: `tls` is null by default: its keys stand in the comment.
IN_COMMENTS = {key for key in KEYS if key.startswith("platform.swarm.tls.")}


@pytest.mark.parametrize("key", sorted(KEYS.keys() - IN_COMMENTS))
def test_the_key_is_there_with_its_default(key: str, whole: Any) -> None:
    field, is_section = KEYS[key]
    section, _, name = key.rpartition(".")
    default = field.get_default(call_default_factory=True)
    try:
        shown = at(whole, key)
    except (KeyError, TypeError):
        line = f"#{'  ' * section.count('.')}{'  ' if section else ''}{name}: {default}"
        raise AssertionError(
            f"etc/cumulusd.yaml lacks {key}: write the line {line!r} under {section or 'the top'}"
        ) from None
    if is_section or key in SET:
        return
    if key in EXAMPLES:
        assert field.is_required() and shown
        return
    expected = list(default) if isinstance(default, tuple) else default
    assert shown == expected, f"etc/cumulusd.yaml shows {key}: {shown!r}; it is {expected!r}"


def test_there_is_no_other_key(whole: Any) -> None:
    """Nor in what is refused: pydantic names every one."""
    try:
        Config.model_validate(whole, context={"folder": SHIPPED.parent, "environ": S3_KEY})
    except ValidationError as error:
        extra = [each["loc"] for each in error.errors() if each["type"] == "extra_forbidden"]
        assert not extra, f"etc/cumulusd.yaml has keys that the code doesn't know: {extra}"


def test_keys_of_tls_are_named() -> None:
    for key in IN_COMMENTS:
        assert f"{key.rpartition('.')[2]}: FILE" in SHIPPED.read_text()


def test_only_what_differs_is_set() -> None:
    data = yaml.safe_load(SHIPPED.read_text())
    leaves = {key for key, (_, is_section) in KEYS.items() if not is_section and _has(data, key)}
    assert leaves == SET | {"platform.type"}


def _has(data: Any, key: str) -> bool:
    try:
        at(data, key)
    except (KeyError, TypeError):
        return False
    return True


def placed(tmp_path: Path, text: str) -> Path:
    """The file as in a repository that script/setup went through."""
    (tmp_path / "etc").mkdir()
    python = tmp_path / ".venv-job" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    path = tmp_path / "etc" / "cumulusd.yaml"
    path.write_text(text)
    return path


def test_as_it_is_shipped(tmp_path: Path) -> None:
    config = load_config(placed(tmp_path, SHIPPED.read_text()), {})
    assert config.state_dir == tmp_path / "var" / "cumulusd"
    assert config.platform.type == "local"
    assert config.platform.local.python == tmp_path / ".venv-job" / "bin" / "python"
    assert config.platform.local.count_cpu_devices
    assert config.tokens == () and all(map(is_loopback, config.listen))


def test_with_everything_set(tmp_path: Path) -> None:
    """The Swarm's lines too, by the steps that the file names."""
    text = uncommented(SHIPPED.read_text())
    for was, becomes in (
        ("type: local ", "type: swarm "),
        ("image: null ", "image: cumulus-job:1"),
    ):
        assert was in text
        text = text.replace(was, becomes, 1)
    config = load_config(placed(tmp_path, text), S3_KEY)
    assert config.platform.type == "swarm" and config.platform.swarm is not None
    assert config.platform.swarm.advertise_url == "ws://10.0.0.1:50051"
    assert config.s3 is not None and config.s3.bucket == "checkpoints"


def test_the_examples_of_tokens_are_taken(tmp_path: Path) -> None:
    text = SHIPPED.read_text()
    examples = re.findall(r"^#   (- \{name: .*\})$", text, re.MULTILINE)
    assert len(examples) == 3
    tokens = "tokens:\n" + "".join(f"  {line}\n" for line in examples)
    tokens = tokens.replace("64 hex digits", "ab" * 32)
    environ = {"OPS_TOKEN": "o" * 32, "CUMULUSD_TOKEN_PROMETHEUS": "p" * 32}
    config = load_config(placed(tmp_path, text + tokens), environ)
    assert [token.name for token in config.tokens] == ["ann-laptop", "ops", "prometheus"]
