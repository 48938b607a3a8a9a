"""A job like one that proved the layer isn't tested again; any other one is."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opencl_layer_kit import MIB, REPOSITORY, Layer

from cumulus_wire.journal import Kind
from tests.unit.runner.runner_kit import FakeAgent, JobFolder, fake_agent

ONE, TWO = "1" * 64, "2" * 64
#: The runner, in a container of which these fingerprints are taken, one after the other.
RUNNER = """
import sys
from cumulus_runner import enforcement
from cumulus_runner.beginning import begin
from cumulus_runner.command import main
taken = sys.argv[3:]
enforcement.GRANT = sys.argv[2]
enforcement._fingerprint = lambda *_: (taken.pop(0) if len(taken) > 1 else taken[0]) or None
sys.exit(main(begin(sys.argv[1:2], may_divide=False)))
"""


@pytest.fixture
def job(tmp_path: Path) -> Iterator[JobFolder]:
    """It prints `ran`; no layer is in its processes."""
    made = JobFolder(tmp_path / "job", opencl_layer=True).script("print('ran')")
    (tmp_path / "grant").mkdir()
    yield made
    made.close()


def run(job: JobFolder, *taken: str, proven: str | None = "") -> tuple[dict[str, Any], list[Any]]:
    """The EXIT record, and what the agent was told before the end."""
    grant = job.path.parent / "grant"
    if proven is not None:
        (grant / "proven").write_text(proven)
    with fake_agent(job) as agent:
        runner = subprocess.Popen(
            [sys.executable, "-c", RUNNER, str(job.path), str(grant), *taken],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
            cwd=REPOSITORY,
        )
        try:
            told = words(agent)
        finally:
            runner.wait(60)
    return job.exit(), told


def words(agent: FakeAgent) -> list[Any]:
    found = [agent.accept()]
    while found[-1]["t"] != "bye":
        found.append(agent.read())
    return [word for word in found if word["t"] == "proof"]


def layer_told(job: JobFolder) -> list[Any]:
    return [status["layer"] for status in job.jsons(Kind.STATUS) if status["phase"] == "running"]


def with_layer(job: JobFolder, layer: Layer) -> JobFolder:
    layer.share(64 * MIB)
    return JobFolder(
        job.path.parent / "other", opencl_layer=True, environment=layer.environment()
    ).script("print('ran')")


def test_a_remembered_proof_is_not_made_again(job: JobFolder) -> None:
    """It would fail: the layer isn't there."""
    end, told = run(job, ONE, proven=f"{TWO}\n{ONE}\n")
    assert end["outcome"] == "completed", end
    assert job.output(Kind.STDOUT) == b"ran\n"
    assert layer_told(job) == ["remembered"]
    assert told == [{"t": "proof", "remembered": ONE}]


@pytest.mark.parametrize("taken", [TWO, ""], ids=["another", "unknown"])
def test_any_other_is_made_and_a_failure_is_told_to_nobody(job: JobFolder, taken: str) -> None:
    end, told = run(job, taken, proven=f"{ONE}\n")
    assert (end["outcome"], end["reason"]) == ("failed", "partition_failed"), end
    assert (job.output(Kind.STDOUT), layer_told(job), told) == (b"", [], [])


@pytest.mark.parametrize("proven", [ONE[:-1], f"{ONE}x\n", f"{ONE} {ONE}\n", "\xff"])
def test_only_a_whole_line_counts(job: JobFolder, proven: str) -> None:
    end, told = run(job, ONE, proven=proven)
    assert (end["reason"], told) == ("partition_failed", [])


def test_a_complete_proof_is_told_before_the_code_runs(job: JobFolder, layer: Layer) -> None:
    other = with_layer(job, layer)
    try:
        end, told = run(other, ONE)
        assert end["outcome"] == "completed", (end, other.output(Kind.SETUP))
        assert (layer_told(other), told) == (["proven"], [{"t": "proof", "proven": ONE}])
    finally:
        other.close()


def test_what_changed_while_it_was_made_is_not_remembered(job: JobFolder, layer: Layer) -> None:
    other = with_layer(job, layer)
    try:
        end, told = run(other, ONE, TWO)
        assert end["outcome"] == "completed", end
        assert (layer_told(other), told) == (["proven"], [{"t": "proof"}])
    finally:
        other.close()


def test_an_agent_that_remembers_nothing_is_told_nothing(job: JobFolder, layer: Layer) -> None:
    other = with_layer(job, layer)
    try:
        end, told = run(other, ONE, proven=None)
        assert end["outcome"] == "completed", end
        assert (layer_told(other), told) == (["proven"], [])
    finally:
        other.close()
