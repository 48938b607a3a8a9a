"""Forms as they come: any cut of the bytes gives the same, bounds, what is told of faults."""

import io
import itertools
import json
from typing import Any

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st

from cumulusd.errors import CumulusError, InvalidArgument, TooLarge
from cumulusd.web import multipart
from cumulusd.web.job_forms import DEFAULTS, FIELDS, FILE_FIELD, of_form, of_json
from cumulusd.web.multipart import Form, boundary_of


def encoded(fields: list[tuple[str, str]], code: bytes | None) -> tuple[str, bytes]:
    """(Content-Type, body), made by a library that others post forms with."""
    files: Any = [(name, (None, text)) for name, text in fields]
    if code is not None:
        files.append((FILE_FIELD, ("code.zip", io.BytesIO(code), "application/zip")))
    made = requests.Request("POST", "http://x/", files=files).prepare()
    assert isinstance(made.body, bytes)
    return str(made.headers["Content-Type"]), made.body


def form(kind: str) -> Form:
    return Form(boundary_of(kind), FILE_FIELD, FIELDS)


def read(form: Form, body: bytes, cuts: list[int]) -> bytes:
    edges = [0, *sorted(cuts), len(body)]
    data = b""
    for begin, end in itertools.pairwise(edges):
        data += b"".join(form.feed(body[begin:end]))
    form.end()
    return data


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_cut_gives_the_same(data: st.DataObject) -> None:
    code = data.draw(
        st.binary(max_size=300)
        | st.text("\r\n-b", max_size=60).map(str.encode)
        | st.just(b"\r\n--bound\r\n--bound-")
    )
    name = data.draw(st.text("aé\r\n-", max_size=20))
    fields = [("gpu_memory", "0.5"), ("name", name)]
    kind, body = encoded(fields, code)
    boundary = data.draw(st.sampled_from(["bound", "-", "'()+_,-./:=?", "x" * 70]))
    made = boundary_of(kind).encode()
    if all(f"\r\n--{boundary}".encode() not in b"\r\n" + one for one in (code, name.encode())):
        body = body.replace(made, boundary.encode())
        kind = f'Multipart/Form-Data; charset=utf-8; boundary="{boundary}"'
    extra = data.draw(st.sampled_from([b"", b"\r\n", b"\r\nan epilogue"]))
    body += extra
    cuts = data.draw(st.lists(st.integers(0, len(body)), max_size=30))
    read_form = form(kind)
    assert read(read_form, body, cuts) == code
    assert read_form.fields == dict(fields)
    assert read_form.has_file and read_form.faults == []


def test_byte_by_byte() -> None:
    kind, body = encoded([("duration", "60")], b"zip\r\n--")
    read_form = form(kind)
    assert read(read_form, body, list(range(len(body)))) == b"zip\r\n--"
    assert read_form.fields == {"duration": "60"}


def test_what_is_no_field_is_a_fault_and_kept_nowhere() -> None:
    kind, body = encoded(
        [("colour", "red"), ("name", "a"), ("name", "b"), ("n" * 500, "x")], b"zip"
    )
    read_form = form(kind)
    read(read_form, body, [])
    assert read_form.fields == {"name": "a"}
    assert [fault["key"] for fault in read_form.faults] == ["colour", "name", "n" * 100]


def test_a_field_that_is_no_text_is_a_fault() -> None:
    kind, body = encoded([("name", "NAME")], b"zip")
    read_form = form(kind)
    read(read_form, body.replace(b"NAME", b"\xff\xfe"), [])
    assert read_form.fields == {}
    assert read_form.faults == [{"key": "name", "message": "is no UTF-8 text"}]


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ([("name", "x" * (multipart.MAX_FIELD_BYTES + 1))], TooLarge),
        ([("environment", "x" * 900_000), ("secrets", "x" * 900_000), ("name", "x" * 900_000)],
         TooLarge),
        ([("name", "x")] * (multipart.MAX_PARTS + 1), TooLarge),
    ],
    ids=["field", "fields", "parts"],
)  # fmt: skip
def test_bounds(fields: list[tuple[str, str]], error: type[CumulusError]) -> None:
    kind, body = encoded(fields, b"zip")
    with pytest.raises(error):
        read(form(kind), body, [])


def test_a_part_with_an_endless_header_is_refused() -> None:
    read_form = form("multipart/form-data; boundary=b")
    list(read_form.feed(b"--b\r\nContent-Disposition: form-data; name="))
    with pytest.raises(TooLarge):
        for _ in range(100):
            list(read_form.feed(b"x" * 1000))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no form at all",
        b"--b\r\n",
        b'--b\r\nContent-Disposition: form-data; name="code"\r\n\r\nzip',
        b"--b\r\nContent-Type: text/plain\r\n\r\nx\r\n--b--\r\n",
        b'--b\r\nContent-Disposition: form-data; name="code"\r\n\r\nx\r\n'
        b'--b\r\nContent-Disposition: form-data; name="code"\r\n\r\ny\r\n--b--\r\n',
    ],
)
def test_malformed_forms_are_refused(body: bytes) -> None:
    with pytest.raises(InvalidArgument):
        read(form("multipart/form-data; boundary=b"), body, [])


@pytest.mark.parametrize(
    "kind", ["multipart/form-data", "x; boundary=" + "b" * 201, "x; boundary="]
)
def test_a_form_needs_a_boundary(kind: str) -> None:
    with pytest.raises(InvalidArgument):
        boundary_of(kind)


def test_a_form_as_old_clients_send_it() -> None:
    posted = of_form({"job_id": "job_1", "gpu_memory": "0.25", "duration": "60"}, [])
    assert posted.spec == {"gpu_memory": 0.25, "duration_s": 60.0}
    assert (posted.job_id, posted.faults) == ("job_1", ())
    assert of_form({}, []).spec == DEFAULTS


def test_a_form_with_everything() -> None:
    posted = of_form(
        {
            "requirements": "numpy\n\n six==1.16 \n",
            "environment": '{"A": "b"}',
            "retries": "2",
            "memory_bytes": "1000",
            "queue_timeout_s": "",
            "name": "é",
        },
        [],
    )
    assert posted.faults == ()
    assert posted.spec == {
        **DEFAULTS,
        "requirements": ["numpy", "six==1.16"],
        "environment": {"A": "b"},
        "retries": 2,
        "memory_bytes": 1000,
        "queue_timeout_s": None,
        "name": "é",
    }
    assert of_form({"requirements": '["a"]'}, []).spec["requirements"] == ["a"]


def test_every_fault_of_a_form_at_once_and_no_secret_in_it() -> None:
    fields = {"gpu_memory": "half", "duration": "nan", "retries": "1.5", "secrets": "{hush"}
    posted = of_form(fields, [{"key": "colour", "message": "is no field"}])
    assert [fault["key"] for fault in posted.faults] == ["colour", *fields]
    assert "hush" not in json.dumps(posted.faults)


def test_json_takes_old_names_too_but_not_both() -> None:
    posted = of_json({"duration": 5, "job_id": "j", "name": "n"})
    assert (posted.spec, posted.job_id) == (
        {"gpu_memory": 0.5, "duration_s": 5, "name": "n"},
        "j",
    )
    assert of_json({"duration": 5, "duration_s": 6}).faults[0]["key"] == "duration"
