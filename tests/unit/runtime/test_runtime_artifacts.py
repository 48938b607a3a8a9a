"""Artifacts: named files that are kept, and nothing else among them."""

import os
from pathlib import Path

import pytest
import runtime
from runtime_kit import Job


def test_what_is_kept_is_listed_and_given_back(job: Job, tmp_path: Path) -> None:
    store = runtime.get_artifact_store()
    assert type(store) is runtime.LocalArtifactStore
    source = tmp_path / "report.html"
    source.write_text("<p>fine")
    told = store.save_artifact_file("reports/final.html", str(source))
    assert told == {
        "local_path": str(job.kept / "artifacts/reports/final.html"),
        "s3_key": None,
    }
    store.save_artifact_bytes("scores.bin", b"\0\1")
    os.utime(job.kept / "artifacts/scores.bin", (1, 1))
    listed = store.list_artifacts()
    assert [one["name"] for one in listed] == ["reports/final.html", "scores.bin"]
    assert listed[1] == {
        "name": "scores.bin",
        "path": str(job.kept / "artifacts/scores.bin"),
        "source": "L1 (local)",
        "timestamp": 1.0,
    }
    assert [one["name"] for one in store.list_artifacts("rep")] == ["reports/final.html"]
    assert store.load_artifact_bytes("scores.bin") == b"\0\1"
    copy = tmp_path / "copy"
    assert store.load_artifact_to_path("reports/final.html", str(copy)) == str(copy)
    assert copy.read_text() == "<p>fine"
    assert store.load_artifact_to_path("scores.bin") == str(job.kept / "artifacts/scores.bin")


def test_only_artifacts_are_listed(job: Job) -> None:
    runtime.save_checkpoint({}, framework="sklearn")
    (job.work / "main.py").write_text("")
    store = runtime.get_artifact_store()
    store.save_artifact_bytes("mine", b"")
    (job.kept / "artifacts/.draft-1-aa-mine").write_bytes(b"half of one")
    assert [one["name"] for one in store.list_artifacts()] == ["mine"]


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../x", "a//b", "a/../b", ".", ".draft-1-x"])
def test_a_name_stays_within_the_folder(job: Job, name: str) -> None:
    store = runtime.LocalArtifactStore()
    with pytest.raises(ValueError, match=r"artifact|drafts"):
        store.save_artifact_bytes(name, b"")
    with pytest.raises(ValueError, match=r"artifact|drafts"):
        store.load_artifact_bytes(name)


def test_what_isn_t_there_is_said(job: Job) -> None:
    store = runtime.LocalArtifactStore()
    with pytest.raises(FileNotFoundError, match="no artifact 'x' in"):
        store.load_artifact_bytes("x")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        store.save_artifact_file("x", "/nowhere")
    assert store.list_artifacts() == []


def test_a_folder_of_one_s_own(job: Job, tmp_path: Path) -> None:
    store = runtime.LocalArtifactStore(str(tmp_path / "mine"))
    store.save_artifact_bytes("a", b"1")
    assert (tmp_path / "mine/a").read_bytes() == b"1"
