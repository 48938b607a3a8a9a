"""Which name of an image the workers are given."""

import pytest

from cumulusd.swarm.answers import ImageInfo
from cumulusd.swarm.image_reference import ImageBy, chosen, is_fixed

ID = "sha256:" + "1" * 64
DIGEST = "sha256:" + "2" * 64


@pytest.mark.parametrize(
    ("reference", "digests", "by", "name"),
    [
        ("job:1", (), ImageBy.DIGEST, ID),
        ("job:1", (f"job@{DIGEST}",), ImageBy.DIGEST, f"job@{DIGEST}"),
        ("job:1", (f"job@{DIGEST}",), ImageBy.ID, ID),
        (
            "host:5000/job",
            (f"b@{DIGEST}", f"host:5000/job@{DIGEST}"),
            ImageBy.DIGEST,
            f"host:5000/job@{DIGEST}",
        ),
        ("job:1", (f"z@{DIGEST}", f"b@{DIGEST}"), ImageBy.DIGEST, f"b@{DIGEST}"),
        ("job:1", (f"job@{DIGEST}",), ImageBy.AUTO, ID),
        ("me/job:1", (f"me/job@{DIGEST}",), ImageBy.AUTO, f"me/job@{DIGEST}"),
        ("host:5000/job", (f"host:5000/job@{DIGEST}",), ImageBy.AUTO, f"host:5000/job@{DIGEST}"),
        ("host:5000/job", (), ImageBy.AUTO, ID),
    ],
)
def test_the_name(reference: str, digests: tuple[str, ...], by: ImageBy, name: str) -> None:
    assert chosen(reference, ImageInfo(image_id=ID, digests=digests), by) == name


def test_ids_and_digests_are_fixed() -> None:
    assert is_fixed(ID) and is_fixed(f"job@{DIGEST}")
    assert not is_fixed("job:1") and not is_fixed("job")


@pytest.mark.parametrize(
    ("config", "version"),
    [
        ({}, None),
        (None, None),
        ({"Env": ["PATH=/bin", "PYTHON_VERSION=3.12.1"]}, "3.12.1"),
        ({"Env": ["PYTHON_VERSION=3.12.1"], "Labels": {"cumulus.python": "3.11"}}, "3.11"),
        ({"Labels": {"cumulus.python": "newest"}, "Env": None}, None),
    ],
)
def test_an_image_may_say_its_python(config: object, version: str | None) -> None:
    assert ImageInfo.read({"Id": ID, "Config": config}).python_version == version
