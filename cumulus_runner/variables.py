"""The environment variables of the job's code and of the installer."""

from __future__ import annotations

import os

from cumulus_wire import folder
from cumulus_wire.grant import OPENCL_LAYER, OPENCL_LAYERS_VARIABLE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from cumulus_runner.interpreter import Environment
    from cumulus_runner.orders import Orders

#: What the runner's own environment hands on to job and installer, where it is set.
_HANDED_ON = (
    "PATH",
    "LANG",
    "LC_ALL",
    "TZ",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    *(
        name
        for kind in ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
        for name in (kind, kind.upper())
    ),
)
#: Modules for the job's code.
INSIDE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "inside")
_DEFAULT_PATH = "/usr/local/bin:/usr/bin:/bin"


def base(scratch: str) -> dict[str, str]:
    """What both have; nothing else of the runner's own environment comes through."""
    variables = {"PATH": _DEFAULT_PATH, "LANG": "C.UTF-8"}
    variables.update((name, os.environ[name]) for name in _HANDED_ON if os.environ.get(name))
    variables["HOME"] = scratch
    variables["TMPDIR"] = os.path.join(scratch, "tmp")
    return variables


def of_job(
    orders: Orders,
    environment: Environment,
    secrets: Mapping[str, str],
    work: str,
    scratch: str,
    control: str,
) -> dict[str, str]:
    """The code's whole environment: the base, the secrets and the orders' over it, ours over all.

    `control`: the folder where code and runner leave each other word.
    """
    variables = {**base(scratch), "TF_FORCE_GPU_ALLOW_GROWTH": "true", **secrets}
    variables.update(orders.environment)
    if environment.folder is not None:
        variables["VIRTUAL_ENV"] = environment.folder
        variables["PATH"] = f"{environment.folder}/bin:{variables['PATH']}"
    variables["CUMULUS_JOB_ID"] = orders.job_id
    variables["CUMULUS_JOB_DIR"] = work
    variables["CUMULUS_ATTEMPT"] = str(orders.attempt)
    variables["CUMULUS_CONTROL_DIR"] = control
    if orders.partition_id is not None:
        variables["CUMULUS_PARTITION_ID"] = orders.partition_id
        variables["CUMULUS_DEVICE_INDEX"] = str(orders.device_index)
    if os.environ.get(OPENCL_LAYERS_VARIABLE) == OPENCL_LAYER:
        # The layer sets it in each process that starts, which a copy of the runner doesn't.
        variables[OPENCL_LAYERS_VARIABLE] = OPENCL_LAYER
    if orders.kept is not None:
        for name, inside in folder.KEPT_VARIABLES.items():
            variables[name] = os.path.join(orders.kept, inside)
    # The code's own modules come first, then what Cumulus has for it: `runtime`.
    variables["PYTHONPATH"] = os.pathsep.join((work, INSIDE))
    variables["PYTHONUNBUFFERED"] = "1"
    return variables


def gpu_memory_bytes(orders: Orders) -> int | None:
    """The job's share, where it is one of a GPU that frameworks know; else None."""
    text = orders.environment.get("CUMULUS_GPU_MEMORY_BYTES", "")
    if not orders.environment.get("CUDA_VISIBLE_DEVICES") or not text.isdecimal():
        return None
    return int(text)
