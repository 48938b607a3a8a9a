"""Secrets: the code has them, nothing else, and their file is gone when the code begins."""

import json
import os
from collections.abc import Callable

import pytest
from runner_kit import JobFolder

from cumulus_wire import folder
from cumulus_wire.journal import Kind

NewJob = Callable[..., JobFolder]
VALUE = "hunter2-Zq9"
SOURCE = "import os\ndef f(): return [os.environ.get('TOKEN'), sorted(os.listdir('..'))]"


def with_secrets(job: JobFolder, content: str) -> JobFolder:
    path = job.path / folder.SECRETS
    path.write_text(content)
    path.chmod(0o600)
    return job


def test_the_code_has_them_and_their_file_is_gone(new_job: NewJob) -> None:
    job = with_secrets(new_job(secrets=["TOKEN"]), json.dumps({"TOKEN": VALUE}))
    assert job.function(SOURCE).run()["outcome"] == "completed"
    value, names = json.loads(job.output(Kind.RESULT))
    assert value == VALUE
    assert folder.SECRETS not in names
    # The function returned it, and it is nowhere else.
    holding = [
        path
        for path in job.path.rglob("*")
        if path.is_file() and VALUE.encode() in path.read_bytes()
    ]
    assert [path.parent.name for path in holding if path.name != "result"] == ["journal"]


def test_their_file_is_gone_when_a_start_module_of_the_package_begins(new_job: NewJob) -> None:
    job = with_secrets(new_job(secrets=["TOKEN"]), json.dumps({"TOKEN": VALUE}))
    job.function(
        "import sys\ndef f(): return sys.seen",
        **{
            "sitecustomize.py": "import os, sys\nsys.seen = [os.environ.get('TOKEN'), "
            "sorted(os.listdir('..')), os.path.exists('../scratch/.cumulus/started')]"
        },
    )
    assert job.run()["outcome"] == "completed"
    value, names, is_marked = json.loads(job.output(Kind.RESULT))
    assert value == VALUE and folder.SECRETS not in names
    assert is_marked, "it isn't run a second time"


def test_the_grant_wins_over_them(new_job: NewJob) -> None:
    job = new_job(secrets=["TOKEN"], environment={"TOKEN": "the grant's"})
    with_secrets(job, json.dumps({"TOKEN": VALUE}))
    job.function(SOURCE).run()
    assert json.loads(job.output(Kind.RESULT))[0] == "the grant's"


def test_the_installer_doesnt_have_them(new_job: NewJob) -> None:
    uv = new_job().path / "uv"
    uv.write_text(f"#!/bin/sh\nenv > {uv}.seen\nls .. >> {uv}.seen\nexit 1\n")
    uv.chmod(0o755)
    job = new_job(secrets=["TOKEN"], requirements=["six"], uv=str(uv))
    with_secrets(job, json.dumps({"TOKEN": VALUE}))
    assert job.function(SOURCE).run()["reason"] == "requirements_failed"
    seen = (uv.parent / "uv.seen").read_text()
    assert "PATH=" in seen and VALUE not in seen


@pytest.mark.parametrize(
    "content", [None, "", f'{{"TOKEN": "{VALUE}', json.dumps([VALUE]), json.dumps({"A": VALUE})]
)
def test_without_them_the_code_doesnt_run(new_job: NewJob, content: str | None) -> None:
    job = new_job(secrets=["TOKEN"]).function("def f(): print('it runs')")
    if content is not None:
        with_secrets(job, content)
    process = job.start()
    _, out, err = job.finish(process)
    end = job.exit()
    assert (end["outcome"], end["reason"]) == ("failed", "runner_failed")
    assert "secrets can't be read" in end["message"]
    assert job.output(Kind.STDOUT) == b""
    assert VALUE.encode() not in out + err + b"".join(r.payload for r in job.records())


def test_a_runner_that_died_setting_up_has_left_them(new_job: NewJob) -> None:
    job = with_secrets(new_job(secrets=["TOKEN"]), json.dumps({"TOKEN": VALUE}))
    job.function(SOURCE)
    os.makedirs(job.path / folder.WORK)  # what such a one leaves
    assert job.run()["outcome"] == "completed"
    assert json.loads(job.output(Kind.RESULT))[0] == VALUE
