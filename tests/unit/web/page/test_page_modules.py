"""The page's modules that need no browser, tested under Node: each `*.test.mjs` of this folder."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from cumulus_wire.journal import Kind, encode, encode_json

HERE = Path(__file__).parent
PAGE = Path(__file__).parents[4] / "cumulusd/web/page"
#: Whole on any machine, however busy.
TIMEOUT_S = 100


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package of modules for Node, with the page's under `#page/`."""
    folder = tmp_path_factory.mktemp("node")
    shutil.copytree(PAGE, folder / "page")
    package = {"type": "module", "imports": {"#page/*": "./page/*"}}
    (folder / "package.json").write_text(json.dumps(package))
    for path in HERE.glob("*.mjs"):
        shutil.copy(path, folder)
    return folder


def node(stage: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["node", *arguments],
        cwd=stage,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.parametrize("name", sorted(path.name for path in HERE.glob("*.test.mjs")))
def test_module(stage: Path, name: str) -> None:
    done = node(stage, "--test", name)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


def test_the_page_reads_what_the_runner_writes(stage: Path) -> None:
    frames = (
        encode(Kind.STDOUT, "héllo\n".encode(), 1_700_000_000_123_456)
        + encode(Kind.STDERR, b"\xff\x00", 1_700_000_000_200_000)
        + encode_json(Kind.STATUS, {"phase": "running"}, 1_700_000_001_000_000)
        + encode(Kind.RESULT, b"", 1_700_000_002_000_000)
    )
    (stage / "frames.bin").write_bytes(frames)
    (stage / "read.mjs").write_text(
        """
import {readFileSync} from "node:fs";
import {decodeFrames, said} from "#page/job_journal.js";
const records = decodeFrames(new Uint8Array(readFileSync("frames.bin")), 1000);
console.log(JSON.stringify(records.map((record) => ({
  ...record, payload: [...record.payload], said: said(record),
}))));
"""
    )
    done = node(stage, "read.mjs")
    assert done.returncode == 0, done.stderr
    read = json.loads(done.stdout)
    assert [(one["kind"], bytes(one["payload"])) for one in read] == [
        (Kind.STDOUT, "héllo\n".encode()),
        (Kind.STDERR, b"\xff\x00"),
        (Kind.STATUS, b'{"phase":"running"}'),
        (Kind.RESULT, b""),
    ]
    assert read[0]["offset"] == 1000
    assert read[0]["timeMs"] == pytest.approx(1_700_000_000_123.456)
    assert [one["nextOffset"] for one in read[:-1]] == [one["offset"] for one in read[1:]]
    assert read[-1]["nextOffset"] == 1000 + len(frames)
    assert read[2]["said"] == {"phase": "running"}
    assert read[1]["said"] == {}


@pytest.mark.parametrize("damage", ["magic", "payload", "cut", "kind"])
def test_damaged_frames_are_refused(stage: Path, damage: str) -> None:
    frames = bytearray(encode(Kind.STDOUT, b"hello", 1) + encode(Kind.STDOUT, b"world", 2))
    if damage == "magic":
        frames[25] ^= 1
    elif damage == "payload":
        frames[-1] ^= 1
    elif damage == "cut":
        del frames[-1]
    else:
        frames[25:] = encode(99, b"world", 2)  # type: ignore[arg-type]
    (stage / "damaged.bin").write_bytes(frames)
    (stage / "damaged.mjs").write_text(
        """
import {readFileSync} from "node:fs";
import {decodeFrames} from "#page/job_journal.js";
try {
  decodeFrames(new Uint8Array(readFileSync("damaged.bin")), 7);
} catch (error) {
  console.log(`${error.name} ${error.offset}`);
}
"""
    )
    done = node(stage, "damaged.mjs")
    assert (done.stdout, done.stderr) == ("JournalCorrupt 32\n", "")
