"""Runs a function package as a job's Python would, without cumulus_client. For the tests.

`python -I client_bootstrap.py PACKAGE.zip FOLDER BOOTSTRAP.py`: unpacks, calls by the job's own
bootstrap, prints one JSON line. The result as it would be sent is `result` in FOLDER.
"""

import importlib.util
import json
import os
import sys
import traceback
import zipfile


class NoClient:
    """A job's Python doesn't have the client, nor what it brings."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] in ("cumulus_client", "cumulus_wire", "cumulusd", "autobahn"):
            raise ModuleNotFoundError(f"No module named {name!r} in a job")


class NoCloudpickle:
    """It comes with the package or not at all: the tests' Python has it installed."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name == "cloudpickle" and not any(".cumulus" in entry for entry in sys.path):
            raise ModuleNotFoundError(f"No module named {name!r} in a job")


def main() -> None:
    package, folder, bootstrap_path = sys.argv[1:]
    spec = importlib.util.spec_from_file_location("bootstrap", bootstrap_path)
    assert spec is not None and spec.loader is not None
    bootstrap = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bootstrap)
    sys.meta_path[:0] = [NoClient(), NoCloudpickle()]
    with zipfile.ZipFile(package) as archive:
        archive.extractall(folder)
    os.chdir(folder)
    sys.path.insert(0, folder)
    with open("cumulus_package.json") as file:
        manifest = json.load(file)
    values, codec = bootstrap.job_values, bootstrap.light_json
    answer = {}
    try:
        values.check_python(manifest)
        cloudpickle = values.load_vendored(folder, manifest)
        value = bootstrap.call_function(folder, manifest)
        answer["value"] = value
        answer["report"] = values.save_result(value, "result", 100 << 20, cloudpickle, codec)
    except values.CallFailed as failed:
        answer["report"] = failed.report
    except Exception as error:
        answer["error"] = f"{type(error).__name__}: {error}"
        answer["traceback"] = traceback.format_exc()
        origins = manifest.get("origins", {})
        describe = bootstrap.job_errors.describe
        answer["told"] = describe(error, folder, origins, values.is_plain, codec)
    answer["modules"] = sorted(sys.modules)
    print("\n" + json.dumps(answer, default=repr))


main()
