"""The job's package, unpacked, or why the job ends by it."""

from __future__ import annotations

import os
import sys

from cumulus_runner import legacy, package
from cumulus_runner.outcome import JobFailed
from cumulus_wire import folder
from cumulus_wire.codes import EndReason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from cumulus_runner.orders import Orders


def unpack_job(path: str, work: str, orders: Orders, tick: Callable[[], None]) -> dict[str, Any]:
    """Unpacks the package in the job's folder `path` to `work`; its manifest. `tick` is called in
    between. Raises JobFailed, and what `tick` raises."""
    if os.path.lexists(work):
        import shutil

        shutil.rmtree(work)  # a runner before this one died while setting up
    archive = os.path.join(path, folder.PACKAGE)
    if not os.path.isfile(archive):
        raise JobFailed(
            EndReason.RUNNER_FAILED,
            f"the worker's agent left no {folder.PACKAGE} in the job's folder",
            "This is Cumulus's own fault; submitting again may help.",
        )
    try:
        package.unpack(
            archive,
            work,
            orders.package_max_bytes,
            orders.package_max_files,
            tick,
        )
        manifest = package.load_manifest(work)
        if manifest["kind"] == legacy.KIND:
            legacy.prepare(work)
    except package.PackageInvalid as error:
        raise JobFailed(EndReason.PACKAGE_INVALID, str(error)) from error
    except package.EntryPointMissing as error:
        raise JobFailed(EndReason.ENTRY_POINT_MISSING, str(error)) from error
    if manifest.get("python") is not None and orders.python in (None, sys.executable):
        _check_python(manifest)  # of another one the job's own bootstrap does it
    return manifest


def _check_python(manifest: dict[str, Any]) -> None:
    """Before anything is installed for it. Raises JobFailed."""
    from cumulus_runner.job_values import CallFailed, check_python

    try:
        check_python(manifest)
    except CallFailed as failed:
        report = failed.report
        raise JobFailed(EndReason.PACKAGE_INVALID, report["message"], report["hint"]) from None
