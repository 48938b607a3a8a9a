"""Runs a function package as a job's Python would, without cumulus_client. For the tests.

`python -I client_bootstrap.py PACKAGE.zip FOLDER`: unpacks, imports, calls, prints one JSON line.
"""

import importlib
import json
import os
import pickle
import sys
import traceback
import zipfile


class NoClient:
    """A job's Python doesn't have the client."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] in ("cumulus_client", "cumulus_wire", "cumulusd", "autobahn"):
            raise ModuleNotFoundError(f"No module named {name!r} in a job")


def main() -> None:
    package, folder = sys.argv[1:]
    sys.meta_path.insert(0, NoClient())
    with zipfile.ZipFile(package) as archive:
        archive.extractall(folder)
    os.chdir(folder)
    sys.path.insert(0, folder)
    with open("cumulus_package.json") as file:
        manifest = json.load(file)
    with open(manifest["call"]) as file:
        call = json.load(file)
    if call["encoding"] == "pickle":
        with open(call["path"], "rb") as file:
            args, kwargs = pickle.load(file)
    else:
        args, kwargs = call["args"], call["kwargs"]
    try:
        module = importlib.import_module(manifest["module"])
        value = getattr(module, manifest["function"])(*args, **kwargs)
        answer = {"value": value}
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
    answer["modules"] = sorted(sys.modules)
    print("\n" + json.dumps(answer, default=repr))


main()
