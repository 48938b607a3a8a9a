"""A user's script that submits one job for each end of a job's own making.

Its last line is JSON: `ids` (name -> job id), and how a package that is too large was `refused`.

`{URL}` is replaced by the daemon's before it runs.
"""

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile

from cumulus_client import CumulusClient
from cumulus_client.packaging import Package, package_function

client = CumulusClient("{URL}")
SPEC = {"gpu_memory": 0.05, "duration_s": 60.0}
TIGHT = {**SPEC, "memory_bytes": 96 << 20}
GREEDY = "b = bytearray(1 << 30); b[::4096] = b[::4096]"


def succeed():
    print("said before the end")
    return {"answer": 42}


def raise_error():
    print("said before the end")
    raise ValueError("boom")


def leave():
    print("said before the end")
    sys.exit(3)


def be_killed():
    print("said before the end", flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)


def be_greedy():
    print("said before the end", flush=True)
    exec(GREEDY)


def have_a_greedy_child():
    print("said before the end", flush=True)
    subprocess.run([sys.executable, "-c", GREEDY], check=True)


def start_too_many():
    print("said before the end", flush=True)
    threading.stack_size(64 << 10)
    for _ in range(5000):
        threading.Thread(target=time.sleep, args=[30], daemon=True).start()


def fill_the_disk():
    print("said before the end", flush=True)
    with open("/tmp/big", "wb") as file:
        while True:
            file.write(bytes(1 << 20))


def return_what_cannot_travel():
    return threading.Lock()


def last():
    print("said before the end", flush=True)
    time.sleep(60)


CODE = {
    "success": (succeed, SPEC),
    "exception": (raise_error, SPEC),
    "exit": (leave, SPEC),
    "signal": (be_killed, SPEC),
    "memory": (be_greedy, TIGHT),
    "memory_child": (have_a_greedy_child, TIGHT),
    "pids": (start_too_many, SPEC),
    "disk": (fill_the_disk, SPEC),
    "result": (return_what_cannot_travel, SPEC),
    "requirements": (succeed, {**SPEC, "requirements": ["numpy==99.99"]}),
    "duration": (last, {**SPEC, "duration_s": 4.0}),
}


def archive(*entries, manifest=None):
    """A zip of (name or ZipInfo, content)."""
    told = {"version": 1, "kind": "script", "path": "script.py", "argv": []}
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as package:
        package.writestr("cumulus_package.json", json.dumps(manifest or told))
        for name, content in entries:
            package.writestr(name, content)
    return file.getvalue()


def link():
    entry = zipfile.ZipInfo("script.py")
    entry.external_attr = 0o120777 << 16
    return entry


def bomb():
    """Claims to be small; unpacks to more than may be."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as package:
        for number in range(5):
            with package.open(f"zeros{number}", "w", force_zip64=True) as entry:
                for _ in range(128):
                    entry.write(bytes(1 << 20))
    return file.getvalue()


FUNCTION = {"version": 1, "kind": "function", "module": "mine", "function": "no_such",
            "call": "call.json"}  # fmt: skip
CALL = ("call.json", '{"encoding": "json", "args": [], "kwargs": {}}')
PACKAGES = {
    "corrupt": archive(("script.py", "print(1)"))[:-30],
    "outside": archive(("../../script.py", "print(1)")),
    "absolute": archive(("/script.py", "print(1)")),
    "link": archive((link(), "/etc/passwd")),
    "bomb": bomb(),
    "no_script": archive(("other.py", "print(1)")),
    "no_function": archive(("mine.py", "x = 1"), CALL, manifest=FUNCTION),
}

if __name__ == "__main__":
    packages = {name: (package_function(code, [], {}), spec) for name, (code, spec) in CODE.items()}
    for name, data in PACKAGES.items():
        packages[name] = (Package(name=name, data=data), SPEC)
    ids = {
        name: client._submit_package(package, spec, None).job_id
        for name, (package, spec) in packages.items()
    }
    try:
        client._submit_package(Package(name="large", data=bytes(5 << 20)), SPEC, None)
    except Exception as error:
        told = {key: getattr(error, key) for key in ("status", "message", "hint", "job_id")}
        print(json.dumps({"ids": ids, "refused": {**told, "type": type(error).__name__}}))
