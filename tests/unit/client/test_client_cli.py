"""The command line as a process: what it refuses, what signals do; and packages of scripts."""

import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from cumulus_client._options import make_spec
from cumulus_client.client import CumulusClient
from cumulus_client.decorators import RemoteFunction
from cumulus_client.packaging import CodePackager, package_script
from tests.unit.client.client_harness import Relay


def run_cumulus(*arguments: str, cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "cumulus_client", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        stdin=subprocess.DEVNULL,
        cwd=cwd,
    )


def test_wrong_usage_is_2_and_no_daemon_69(tmp_path: Path) -> None:
    script = tmp_path / "s.py"
    script.write_text("print(1)\n")
    (tmp_path / "mod.py").write_text("import nothing_there\n")
    (tmp_path / "right.py").write_text("def f(x):\n    return x\n")
    for arguments, words in [
        (["run", "none.py"], "there is no script 'none.py'"),
        (["run", str(tmp_path / "z.py")], f"did you mean {tmp_path}/s.py?"),
        (["run", "--env", "x-y", str(script)], "neither NAME=VALUE nor NAME"),
        (["run", "--env", "NOT_THERE", str(script)], "write NOT_THERE=VALUE"),
        (["run", "--secret", "NOT_THERE", str(script)], "or write NOT_THERE@FILE"),
        (["run", "--file", "nothing", str(script)], "--file nothing: there is no such file"),
        (["run", "-r", "none.txt", str(script)], "-r: there is no requirements file"),
        (["run", "--server", "nowhere", str(script)], "http://host"),
        (["run", "--gpu-memory", "lots", str(script)], "no share"),
        (["run", "--duration", "soon", str(script)], "no duration such as 90"),
        (["run", "--memory", "much", str(script)], "no size such as 8GiB"),
        (["run", "--cpu", "-1", str(script)], "no number of cores"),
        (["run", "--server", "http://h:99999", str(script)], "the port of server_url"),
        (["run", "--profile", "none", str(script)], "cumulus login --profile none"),
        (["run"], "what is to run? Write: cumulus run script.py"),
        (["run", "right:f"], "cumulus run -m right:f"),
        (["run", "-m", "right"], "not of the form module:function"),
        (["run", "-m", "right.py:f"], "a module, not a file: -m right:f"),
        (["run", "-m", "rigth:f"], "no module 'rigth' here; did you mean right?"),
        (["run", "-m", "right:g"], "has no 'g'"),
        (["run", "-m", "right:f"], "missing a required argument: 'x'"),
        (["run", "-m", "right:f", "--", "1", "y=2"], "unexpected keyword argument 'y'"),
        (["run", "-m", "right:f", "--", "x=1", "2"], "put it before them"),
        (["run", "-m", "mod:f"], "mod.py, line 1: ModuleNotFoundError: No module named 'nothing_"),
        (["run", "--gpu-mem", "0.5", str(script)], "did you mean --gpu-memory?"),
        (["rnu", str(script)], "there is no verb 'rnu'; did you mean run?"),
        ([str(script)], f"did you mean: cumulus run {script}"),
        (["-q", "run"], "cumulus run -q"),
        (["logs"], "required: JOB"),
        (["logs", "--since", "soon", "last"], "no moment such as 10m"),
        (["logs", "-n", "0", "last"], "no whole number from 1 on"),
        (["completion", "tcsh"], "invalid choice: 'tcsh'"),
        (["login", "--server-url", "nowhere"], "must look like http://host"),
        (["login"], "cumulus login --server-url"),
        ([], "usage: cumulus VERB"),
    ]:
        done = run_cumulus(*arguments, cwd=tmp_path)
        assert (done.returncode, words in done.stderr) == (2, True), (arguments, done.stderr)
        assert "Traceback" not in done.stderr and done.stdout == ""
    done = run_cumulus("info", "--server", "http://127.0.0.1:1")
    assert done.returncode == 69
    assert "can't connect to http://127.0.0.1:1: Connection refused" in done.stderr


def test_help_loads_nothing_heavy() -> None:
    text = (
        "import sys\nfrom cumulus_client.cli import main\nassert main(['--help']) == 0\n"
        "heavy = {'rich', 'autobahn', 'twisted', 'numpy', 'cloudpickle', 'pathspec'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")
    for verb in ("run", "jobs", "logs", "login", "completion"):
        assert f"  {verb} " in done.stdout
        shown = run_cumulus(verb, "--help")
        assert (shown.returncode, shown.stderr) == (0, "")
        assert shown.stdout.startswith(f"usage: cumulus {verb}")


def test_syntax_errors_are_shown_where_they_are(tmp_path: Path) -> None:
    script = tmp_path / "s.py"
    script.write_text("x = 1\nif x = 2:\n    pass\n")
    done = run_cumulus("run", str(script))
    assert done.returncode == 2 and "Traceback" not in done.stderr
    lines = done.stderr.splitlines()
    assert f'  File "{script}", line 2' in lines
    assert lines[lines.index("    if x = 2:") + 1].strip(" ^") == ""
    assert any(line.startswith("SyntaxError: invalid syntax") for line in lines)
    script.write_text("import beside\n")
    (tmp_path / "beside.py").write_text("def f(:\n")
    done = run_cumulus("run", str(script))
    assert "the local module 'beside' is no Python" in done.stderr and "line 1" in done.stderr


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)]
)
def test_ending_signals_cancel_the_job_and_say_so(
    relay: Relay, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    script = tmp_path / "pending"
    script.write_text("pass\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "cumulus_client", "run", "--server", relay.url, str(script)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    killer = threading.Timer(60, process.kill)
    killer.start()
    with process:
        assert process.stderr is not None
        for line in process.stderr:
            if "line 1998" in line:
                break
        process.send_signal(number)
        rest = process.stderr.read()
    killer.cancel()
    killer.join()
    by = "" if number is signal.SIGINT else f"{number.name}: "
    assert f"[cumulus] {by}cancelling job job-1" in rest
    assert "[cumulus] cancelled" in rest and "Traceback" not in rest
    assert process.returncode == code


def test_scripts_take_their_modules_along(tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text("import other\n")
    (tmp_path / "other.py").write_text("X = 1\n")
    (tmp_path / "unused.py").write_text("X = 1\n")
    script = tmp_path / "s.py"
    script.write_text("import json, helper\n")
    package = package_script(script, ["-a", "b"])
    import io
    import json
    import zipfile

    with zipfile.ZipFile(io.BytesIO(package.whole())) as archive:
        names = set(archive.namelist())
        manifest = json.loads(archive.read("cumulus_package.json"))
    assert names == {"cumulus_package.json", "s.py", "helper.py", "other.py"}
    assert manifest.pop("origins")["s.py"] == str(tmp_path / "s.py")
    assert manifest == {"version": 1, "kind": "script", "path": "s.py", "argv": ["-a", "b"]}
    assert package.whole() == package_script(script, ["-a", "b"]).whole()


def test_types_are_checked_here_and_values_by_the_daemon() -> None:
    assert make_spec(gpu_memory=7, duration=-1)["gpu_memory"] == 7.0
    wrong: list[dict[str, Any]] = [
        {"gpu_memory": "half"},
        {"gpu_memory": True},
        {"duration": None},
        {"requirements": "six"},
        {"requirements": [1]},
        {"env": {"A": 1}},
        {"env": ["A=1"]},
        {"name": 3},
        {"priority": 1.5},
        {"retries": True},
    ]
    for options in wrong:
        with pytest.raises(TypeError, match=next(iter(options))):
            make_spec(**{"gpu_memory": 1, "duration": 1, **options})


def test_remote_functions_look_like_their_function() -> None:
    def train(x: int) -> int:
        """Trains."""
        return x

    with CumulusClient("http://127.0.0.1:1/") as client:
        assert client.server_url == "http://127.0.0.1:1"
        made = RemoteFunction(client, train, requirements=["six"])
    assert (getattr(made, "__name__", None), made.__doc__, made.func(3)) == ("train", "Trains.", 3)
    with pytest.raises(TypeError, match="a function is needed"):
        RemoteFunction(client, 3)  # type: ignore[arg-type]


def test_code_packager_takes_extra_files() -> None:
    import io
    import textwrap
    import zipfile

    packager = CodePackager()
    packager.add_source_file("data/x.txt", "hello")
    with pytest.raises(RuntimeError, match="no place inside"):
        packager.add_source_file("../x", "")
    data = packager.package_function(textwrap.dedent, ["six"], "j1", args=["  a"])
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.read("data/x.txt") == b"hello"
        assert "call.json" in archive.namelist()
