"""Zips: what the daemon looks into, what the runner unpacks, and what is posted as a job's code."""

import base64
import io
import json
import os
import shutil
import warnings
import zipfile
from pathlib import Path

from hypothesis import strategies as st

from cumulus_runner.package import EntryPointMissing, PackageInvalid, load_manifest, unpack
from cumulus_wire import folder
from cumulusd.errors import InvalidArgument
from cumulusd.package_contents import look_inside
from tests.fuzz.fuzz_engine import Finding, Kind, Tally, Target
from tests.fuzz.fuzz_inputs import MemoryFolder, Source
from tests.fuzz.fuzz_stage import Stage
from tests.fuzz.fuzz_values import json_text
from tests.fuzz.fuzz_wire import HttpBatch, http_request

MAX_UNPACKED_BYTES = 4 << 20
MAX_FILES = 100
_NAMES = st.sampled_from(
    (
        *(folder.MANIFEST, folder.LEGACY_MAIN, folder.LEGACY_REQUIREMENTS, "call.json", "a/b.py"),
        *(
            "../up.py",
            "/abs.py",
            "a/../../b",
            "a\\b",
            "a//b",
            "./a",
            "a",
            "a/",
            "",
            ".",
            "..",
            "x" * 300,
        ),
        *("\u202ename", "é", "a\0b", "con", "a/b/c/d/e", "A", " "),
    )
)
_WORDS = (
    *("version", "kind", "function", "callable", "script", "module", "call", "path", "argv"),
    *("python", "vendor", "lines", "aliases", "origins", "call.json", "a/b.py", "../up.py"),
)
_MANIFESTS = st.one_of(
    json_text(_WORDS),
    st.fixed_dictionaries(
        {"version": st.just(1), "kind": st.sampled_from(("function", "callable", "script", "x"))},
        optional={
            key: st.sampled_from(
                ("call.json", "a/b.py", "../up.py", "", "\0", "a" * 5000, "a", "/")
            )
            for key in ("module", "function", "call", "path", "vendor", "lines", "python")
        },
    ).map(lambda value: json.dumps(value).encode()),
)
_WHOLE_MANIFESTS = st.sampled_from(
    (
        b'{"version":1,"kind":"function","module":"a.b","function":"f","call":"call.json"}',
        b'{"version":1,"kind":"callable","call":"call.json","aliases":{"a":"b"}}',
        b'{"version":1,"kind":"script","path":"a/b.py","argv":["x"]}',
    )
)
_CONTENTS = st.one_of(
    _MANIFESTS, st.binary(max_size=40), st.sampled_from((b"", b"x" * 9000, b"six\n"))
)
_ENTRIES = st.lists(
    st.tuples(
        _NAMES,
        _CONTENTS,
        st.sampled_from((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_DEFLATED, 12, 14)),
        st.sampled_from((0, 0o100644, 0o100755, 0o120777, 0o040755, 0o010644, 0o060644, 0xFFFF)),
    ),
    max_size=6,
)


#: What a package may hold: the manifest is looked at, not only the directory.
_GOOD_ENTRIES = st.dictionaries(
    st.sampled_from(("call.json", "a/b.py", folder.LEGACY_MAIN, folder.LEGACY_REQUIREMENTS, "d/")),
    st.sampled_from((b"", b"{}", b"six\nnumpy>=1 # c\n", b"\xff\xfe", b"x" * 9000)),
    min_size=1,
).flatmap(
    lambda files: (_WHOLE_MANIFESTS | _MANIFESTS | st.none()).map(
        lambda manifest: [
            (name, b"" if name.endswith("/") else content, zipfile.ZIP_DEFLATED, 0)
            for name, content in (
                *files.items(),
                *([(folder.MANIFEST, manifest)] if manifest is not None else []),
            )
        ]
    )
)


def zipped(entries: list[tuple[str, bytes, int, int]]) -> bytes:
    """A zip of these, whatever they are named."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the same name twice
        for name, content, method, mode in entries:
            info = zipfile.ZipInfo("x")
            info.filename = name
            info.compress_type = method
            info.external_attr = mode << 16
            archive.writestr(info, content)
    return buffer.getvalue()


class Zips(Target):
    """Zips with odd entries, and damaged ones."""

    def make(self, source: Source, count: int) -> list[bytes]:
        return source.mixed((_ENTRIES | _GOOD_ENTRIES).map(zipped), ("zips", "packages"), count)


class _OnDisk(Zips):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._folder = MemoryFolder()

    def close(self) -> None:
        self._folder.remove()


class LookInside(_OnDisk):
    """The daemon's look at a posted zip: InvalidArgument is all that it may raise."""

    def run(self, data: bytes) -> Tally:
        path = self._folder.path / "package.zip"
        path.write_bytes(data)
        try:
            look_inside(path)
        except InvalidArgument:
            return Tally(1, 1)
        return Tally(1)


class Unpack(_OnDisk):
    """The runner's unpacking: within its folder, within its bounds, or PackageInvalid."""

    batch = 100

    def run(self, data: bytes) -> Tally:
        path, outer = self._folder.path / "package.zip", self._folder.path / "outer"
        path.write_bytes(data)
        outer.mkdir()
        work = outer / "work"
        try:
            unpack(str(path), str(work), MAX_UNPACKED_BYTES, MAX_FILES, lambda: None)
            load_manifest(str(work))
            refused = 0
        except (PackageInvalid, EntryPointMissing):
            refused = 1
        finally:
            self._check(outer)
            shutil.rmtree(outer)
        return Tally(1, refused)

    def _check(self, outer: Path) -> None:
        outside = [name for name in os.listdir(outer) if name != "work"]
        outside += [
            name for name in os.listdir(self._folder.path) if name not in ("package.zip", "outer")
        ]
        if outside:
            raise Finding(f"the package wrote outside of its folder: {outside}")
        size = 0
        for place, folders, files in os.walk(outer):
            for name in (*folders, *files):
                full = os.path.join(place, name)
                if os.path.islink(full):
                    raise Finding(f"the package made a link: {full}")
                size += os.lstat(full).st_size if name in files else 0
        if size > MAX_UNPACKED_BYTES + (256 << 10):
            raise Finding(f"the package unpacked to {size} bytes")


class Posted(Zips):
    """Posted to the daemon as a form or as base64, with one fault in the job: it isn't run."""

    on_wire = True
    batch = 24
    weight = 4.0

    def __init__(self, name: str, stage: Stage) -> None:
        super().__init__(name)
        self._stage = stage

    def run_batch(self, batch: list[bytes]) -> Tally:  # type: ignore[override]
        requests = [self._request(data, number) for number, data in enumerate(batch)]
        return HttpBatch(self._stage).run([[request] for request in requests])

    def _request(self, data: bytes, number: int) -> bytes:
        token = self._stage.token("client")
        if number % 3 == 0:
            body = json.dumps(
                {"code": base64.b64encode(data).decode(), "gpu_memory": -1, "job_id": "zip"}
            ).encode()
            kind = "application/json"
        else:
            boundary = f"-----fuzz{number}"
            body = form({"gpu_memory": b"-1", "duration": b"3"}, data, boundary)
            kind = f"multipart/form-data; boundary={boundary}"
        return http_request("POST", "/api/jobs", token, body, kind)


def form(fields: dict[str, bytes], code: bytes, boundary: str) -> bytes:
    """A multipart form with the file `code`."""
    lines = []
    for name, value in fields.items():
        lines.append(
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode()
            + value
            + b"\r\n"
        )
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="code"; filename="c.zip"\r\n\r\n'
    return b"".join((*lines, head.encode(), code, f"\r\n--{boundary}--\r\n".encode()))


def kind(share: float, stage: Stage | None) -> Kind:
    """All of it; without a stage what runs in this process."""
    targets: list[Target] = [LookInside("look-inside"), Unpack("unpack")]
    if stage is not None:
        targets.append(Posted("posted", stage))
    return Kind(name="zips", share=share, targets=targets)
