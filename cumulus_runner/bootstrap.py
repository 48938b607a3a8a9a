"""Runs the job's code, once it is told to.

As a program: `python -u bootstrap.py CALL.json WORK GO`, by the job's own Python (3.9 or newer),
once a byte comes on the descriptor GO; without one it ends. CALL.json and the folder WORK are there
by then. Or, by `follow`, in a copy of the runner's own interpreter.

On its own: standard library only, and nothing of Cumulus but what it loads by its path, for this
Python may be another than the runner's. The call says where things are::

    {"work", "manifest": {...}, "report", "result", "result_max_bytes", "gpu_memory_bytes"}

and the report, written last and at once, how it went; no report: the code left by itself::

    {"state": "returned", "encoding": "json"|"pickle"}           the value is in the file `result`
    {"state": "finished"}                                        a script came to its end
    {"state": "raised", "error": {type, module, message, traceback, value}, "hint", "disk_full"}
    {"state": "paused", "error": {...}, "hint"}                  it raised that it pauses
    {"state": "missing"|"unreturnable"|"invalid", "message", "hint"}
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cumulus_runner import job_errors, job_values
    from cumulus_wire import light_json

HERE = os.path.dirname(os.path.abspath(__file__))
#: Disk kept back for the report, in case the code fills it.
RESERVE_BYTES = 256 << 10
#: What is told of an error that a full disk leaves little room for.
SHORT_CHARS = 1000
#: How a variable says no.
FALSE = ("", "0", "false", "no", "off")
#: What we need of the standard library while the code's modules can be found, or after it.
NEEDED = ("json", "pickle", "traceback", "types")
#: `sys.path` without the code's folders.
OUR_PATH: list[str] = []
#: Ends a whole word of the runner to its copy.
WHOLE = b"cumulus: whole"
#: How many names of the package are looked at for such as could be mistaken for one of these.
MAX_NAMES = 200


def load_beside(*place: str) -> Any:
    """A file beside this one, not to be found by the code as a module of that name."""
    # `importlib.util` has them too, and half a dozen imports that aren't needed here.
    from _frozen_importlib import module_from_spec
    from _frozen_importlib_external import spec_from_file_location

    name = "cumulus_" + place[-1].partition(".")[0]
    spec = spec_from_file_location(name, os.path.join(HERE, *place))
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if not TYPE_CHECKING:
    job_errors = load_beside("job_errors.py")
    job_values = load_beside("job_values.py")
    light_json = load_beside(os.pardir, "cumulus_wire", "light_json.py")


def main(call: dict[str, Any]) -> int:
    """Runs the call; the exit code."""
    process = os.getpid()
    manifest = call["manifest"]
    keep_back(call["report"])
    if call["gpu_memory_bytes"] is not None:
        watch = load_beside("inside", "runtime", "_imports.py").watch
        load_beside("frameworks.py").install(call["gpu_memory_bytes"], watch)
    work = call["work"]
    try:
        report: dict[str, Any]
        job_values.check_python(manifest)
        if manifest["kind"] == "legacy":
            stand_in(work)
        watch_training()
        if manifest["kind"] in ("script", "legacy"):
            run_script(work, manifest)
            report = {"state": "finished"}
        else:
            cloudpickle = job_values.load_vendored(work, manifest)
            value = call_function(work, manifest)
            if os.getpid() != process:
                return 0
            report = job_values.save_result(
                value,
                call["result"],
                call["result_max_bytes"],
                cloudpickle,
                light_json,
                load_needed,
            )
    except job_values.CallFailed as failed:
        report = failed.report
    except SystemExit:
        raise
    except BaseException as error:
        origins = manifest.get("origins") or {}
        load_needed()
        report = {
            "state": "paused" if job_errors.is_pause(error) else "raised",
            "error": job_errors.describe(error, work, origins, job_values.is_plain, light_json),
            "hint": job_errors.hint_for(error),
        }
        if job_values.is_disk_full(error):
            report["disk_full"] = True
    if os.getpid() != process:
        return 1  # a child that the code forked: its end isn't the job's
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):
            continue  # the code closed or replaced it
    save_report(report, call["report"])
    return 0 if report["state"] in ("returned", "finished") else 1


def watch_training() -> None:
    """Automatic checkpoints, where the job asks for them. Its own `runtime` is left alone."""
    if os.environ.get("CUMULUS_AUTO_CHECKPOINT", "").strip().lower() in FALSE:
        return
    from importlib.util import find_spec

    spec = find_spec("runtime")
    if spec is None or spec.origin != os.path.join(HERE, "inside", "runtime", "__init__.py"):
        sys.stderr.write(
            "cumulus: no automatic checkpoints (CUMULUS_AUTO_CHECKPOINT): the job's code has a "
            "module `runtime` of its own, which stands in front of Cumulus's; rename it\n"
        )
        return
    from importlib import import_module

    import_module("runtime").get_auto_checkpoint_manager()


def stand_in(work: str) -> None:
    """Puts our `runtime` before all that an old zip brings, for its own processes too."""
    inside = os.path.join(HERE, "inside")
    sys.path.insert(0, inside)
    os.environ["PYTHONPATH"] = os.pathsep.join((inside, work))


def run_script(work: str, manifest: dict[str, Any]) -> None:
    """Runs a script as `__main__`, which it stays, so that what it pickles is found there."""
    import builtins
    import io
    import types

    path = os.path.join(work, manifest["path"])
    sys.argv = [path, *manifest.get("argv", [])]
    if os.path.dirname(path) != work:
        sys.path.insert(1, os.path.dirname(path))
    with io.open_code(path) as file:
        code = compile(file.read(), path, "exec", dont_inherit=True)
    module = types.ModuleType("__main__")
    module.__file__ = path
    module.__dict__["__builtins__"] = builtins  # the module, as any `__main__` has it
    sys.modules["__main__"] = module
    exec(code, module.__dict__)


def call_function(work: str, manifest: dict[str, Any]) -> object:
    """Calls what the manifest names, or the call itself has; its value."""
    if manifest["kind"] == "callable":
        sys.argv = [""]
        job_values.show_lines(work, manifest, light_json)
        function, args, kwargs = job_values.load_call(work, manifest, light_json)
    else:
        function = find_function(manifest["module"], manifest["function"])
        _, args, kwargs = job_values.load_call(work, manifest, light_json)
    if not callable(function):
        raise job_values.CallFailed("missing", "what the package is to run can't be called")
    value = function(*args, **kwargs)
    if type(value).__name__ == "coroutine" and hasattr(value, "cr_frame"):  # of an `async def`
        import asyncio

        return asyncio.run(value)
    return value


def find_function(name: str, function_name: str) -> Any:
    """Imports it. Raises CallFailed."""
    sys.argv = [name]
    try:
        __import__(name)
        module = sys.modules[name]
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(error.name + ".")):
            raise
        raise job_values.CallFailed("missing", f"the package has no module {name}") from error
    function = module
    for part in function_name.split("."):
        try:
            function = getattr(function, part)
        except AttributeError as error:
            raise job_values.CallFailed(
                "missing", f"the module {name} has no function {function_name}"
            ) from error
    if not callable(function):
        raise job_values.CallFailed("missing", f"{name}.{function_name} can't be called")
    return function


def keep_back(path: str) -> None:
    """Some disk for `save_report`, where there is any left."""
    with open(path + ".reserve", "wb") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, RESERVE_BYTES)
        except OSError:
            return  # full already, or the file system has no such call


def save_report(report: dict[str, Any], path: str) -> None:
    """Whole or not at all; in short where a full disk leaves no room for more."""
    try:
        os.unlink(path + ".reserve")
    except OSError:
        pass  # the code took it
    try:
        write_report(report, path)
    except OSError as error:
        if not job_values.is_disk_full(error):
            raise
        told = report.get("error") or {}
        short = {key: job_errors.shorten(str(text), SHORT_CHARS) for key, text in told.items()}
        write_report({**report, "error": short, "disk_full": True}, path)


def write_report(report: dict[str, Any], path: str) -> None:
    """Raises OSError, and leaves nothing."""
    try:
        with open(path + ".part", "wb") as file:
            file.write(light_json.dumps(report).encode())
        os.replace(path + ".part", path)
    except OSError:
        if os.path.exists(path + ".part"):
            os.unlink(path + ".part")
        raise


def begin(work: str) -> None:
    """Makes this the code's process. Called with none of the code's folders on `sys.path`."""
    OUR_PATH[:] = sys.path
    if may_be_mistaken(work):
        load_needed()
    os.chdir(work)
    sys.path.insert(0, work)
    # For its own processes; ours may have been started without, so that it looked at nothing there.
    os.environ["PYTHONPATH"] = os.pathsep.join((work, os.path.join(HERE, "inside")))
    sys.path_importer_cache.clear()  # the folder may have been looked for before it was there


def load_needed() -> None:
    """Imports it from where none of the code's folders are: what it has written there meanwhile may
    have such a name."""
    path = sys.path[:]
    sys.path[:] = OUR_PATH
    try:
        for needed in NEEDED:
            __import__(needed)
    finally:
        sys.path[:] = path


def may_be_mistaken(work: str) -> bool:
    """Whether the package has modules, wherever, named like some of the standard library: else
    those are imported when they are needed. A large package isn't looked through."""
    standard = getattr(sys, "stdlib_module_names", None)  # Python 3.10 has it
    left = MAX_NAMES
    for _, folders, files in os.walk(work):
        left -= len(folders) + len(files)
        if standard is None or left < 0:
            return True
        if any(name.partition(".")[0] in standard for name in (*folders, *files)):
            return True
    return False


def follow(go: int) -> int:
    """In a copy of the runner, before it did anything: waits for its word on the descriptor `go`,
    the marshalled variables and call, and runs that; the exit code. Without a whole word it ends.
    """
    import marshal
    import time

    sys.path.insert(0, os.path.join(HERE, "inside"))
    with open(go, "rb") as file:
        word = file.read()
    if not word.endswith(WHOLE):
        os._exit(0)
    variables, call = marshal.loads(word)
    os.environ.clear()
    os.environ.update(variables)
    time.tzset()
    forget_user_site()
    begin(call["work"])
    return main(call)


def forget_user_site() -> None:
    """It is where HOME is, which may be another one now."""
    site: Any = sys.modules["site"]
    site.USER_BASE = site.USER_SITE = None
    site.getusersitepackages()


if __name__ == "__main__":
    CALL, WORK, GO = sys.argv[1], sys.argv[2], int(sys.argv[3])
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") not in (HERE, WORK)]
    is_told = os.read(GO, 1) != b""
    os.close(GO)
    if not is_told:
        sys.exit(0)
    with open(CALL, encoding="utf-8") as opened:
        ASKED = light_json.loads(opened.read())
    begin(WORK)
    sys.exit(main(ASKED))
