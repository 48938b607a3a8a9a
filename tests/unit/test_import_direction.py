"""Which way imports point. The rules stand in docs/architecture.md; this holds them.

`jobs` is the core and knows nobody; each layer may import only what is listed for it. Every import
counts, also those inside functions and under TYPE_CHECKING.
"""

import ast
import functools
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = (
    "cumulus_wire",
    "cumulusd",
    "cumulus_client",
    "cumulus_runner",
    "engines",
    "twisted/plugins",
)

_COMMON = "cumulus_wire cumulusd.errors cumulusd.tasks"
_PORTS = f"{_COMMON} cumulusd.jobs.model cumulusd.jobs.ports"

#: Part -> what of ours it may import, by prefix ("=" before a name: that module's own names, not
#: the modules in it). The longest matching part's rule holds for a module.
OURS: dict[str, str] = {
    "cumulus_wire": "cumulus_wire",
    "cumulus_runner": "cumulus_runner cumulus_wire",
    "engines": "engines",
    "cumulus_client": "cumulus_client cumulus_wire",
    "cumulusd": "",  # a module without a rule of its own may import nothing of ours
    "cumulusd.errors": "cumulus_wire",
    "cumulusd.identity": "cumulus_wire cumulusd.errors",
    "cumulusd.tasks": "",
    "cumulusd.peers": "",
    "cumulusd.origins": "",
    "cumulusd.activation": "",
    "cumulusd.tls": "cumulusd.activation",
    "cumulusd.tls_connection": "",
    "cumulusd.certificates": "cumulusd.activation cumulusd.tls cumulusd.tls_connection",
    "cumulusd.reloading": "cumulusd.config",
    "cumulusd.notify": "",
    "cumulusd.heartbeat": "cumulusd.jobs.model cumulusd.notify",
    "cumulusd.disk": "cumulusd.errors",
    "cumulusd.log": "",
    "cumulusd.open_files": "",
    "cumulusd.autobahn_log": "",
    "cumulusd.bulk_frames": "",
    "cumulusd.pings": "",
    "cumulusd.direct_write": "",
    "cumulusd.collecting": "",
    "cumulusd.loop_lag": "cumulusd.jobs.ports",
    "cumulusd.metrics": "cumulus_wire cumulusd.jobs.model cumulusd.jobs.timeline"
    " cumulusd.metrics_gauges cumulusd.metrics_snapshot",
    "cumulusd.metrics_gauges": "cumulusd.metrics_labels cumulusd.metrics_snapshot",
    "cumulusd.metrics_labels": "cumulusd.jobs.ports",
    "cumulusd.metrics_snapshot": "cumulus_wire cumulusd.jobs.model cumulusd.jobs.ports"
    " cumulusd.metrics_labels",
    "cumulusd.config_file": "",
    "cumulusd.config_credentials": "",
    "cumulusd.config_platform": "cumulus_wire cumulusd.config_credentials",
    "cumulusd.config_provisioning": "cumulusd.config_platform",
    "cumulusd.config_chronos": "cumulusd.config_platform",
    "cumulusd.config_jobs": "cumulusd.config_platform",
    "cumulusd.config_router": "cumulusd.config_platform",
    "cumulusd.config_s3": "cumulusd.config_platform",
    "cumulusd.config_faults": "cumulusd.config_file",
    "cumulusd.config_listen": "=cumulusd cumulusd.activation cumulusd.tls",
    "cumulusd.config_shown": "cumulusd.config cumulusd.config_file cumulusd.config_tokens",
    "cumulusd.config_tokens": "cumulusd.config_platform cumulusd.identity",
    "cumulusd.config_web": "cumulusd.config_platform cumulusd.origins",
    "cumulusd.config": "cumulusd.config_chronos cumulusd.config_credentials"
    " cumulusd.config_faults cumulusd.config_file"
    " cumulusd.config_jobs cumulusd.config_listen cumulusd.config_platform cumulusd.config_router"
    " cumulusd.config_provisioning"
    " cumulusd.config_s3 cumulusd.config_tokens cumulusd.config_web =cumulusd cumulusd.tls"
    " cumulusd.identity cumulusd.admin.token_file",
    "cumulusd.state_file": "cumulusd.errors",
    "cumulusd.provisioning": "cumulusd.errors cumulusd.identity cumulusd.state_file",
    "cumulusd.admin": "cumulusd.admin cumulusd.errors cumulusd.identity cumulusd.state_file",
    "cumulusd.admin.tokens": f"{_PORTS} cumulusd.admin cumulusd.identity cumulusd.scram_keys",
    "cumulusd.admin.site": f"{_COMMON} cumulusd.admin cumulusd.web",
    "cumulusd.job_network": "",
    "cumulusd.backup": "cumulusd.errors cumulusd.jobs.salvage cumulusd.jobs.store_file",
    "cumulusd.cli_store": "cumulusd.backup cumulusd.config cumulusd.errors cumulusd.exits"
    " cumulusd.jobs",
    "cumulusd.cli_token": "cumulusd.admin.client cumulusd.admin.token_record cumulusd.config"
    " cumulusd.errors",
    "cumulusd.exits": "",
    "cumulusd.cli_config": "cumulusd.certificates cumulusd.config cumulusd.config_shown"
    " cumulusd.exits cumulusd.tls",
    "cumulusd.cli_provision": "cumulusd.config cumulusd.errors cumulusd.provision_scripts"
    " cumulusd.provisioning cumulusd.tls",
    "cumulusd.doctor": f"{_COMMON} =cumulusd cumulusd.doctor cumulusd.admin cumulusd.certificates"
    " cumulusd.config cumulusd.config_listen cumulusd.config_platform cumulusd.config_s3"
    " cumulusd.disk cumulusd.open_files cumulusd.s3 cumulusd.swarm cumulusd.tls",
    "cumulusd.cli_doctor": "cumulusd.config cumulusd.config_file cumulusd.doctor cumulusd.exits",
    "cumulusd.cli": "=cumulusd cumulusd.cli_config cumulusd.cli_doctor cumulusd.cli_provision"
    " cumulusd.cli_store cumulusd.cli_token cumulusd.config cumulusd.errors cumulusd.exits",
    "cumulusd.daemon": "cumulusd.config cumulusd.errors cumulusd.exits cumulusd.jobs.store_file"
    " cumulusd.log cumulusd.tap",
    "cumulusd.jobs": f"{_COMMON} cumulusd.jobs",
    "cumulusd.swarm": f"{_PORTS} cumulusd.swarm",
    "cumulusd.swarm.agent_services": f"{_PORTS} cumulusd.swarm cumulusd.identity",
    "cumulusd.swarm.agent_tokens": f"{_PORTS} cumulusd.swarm cumulusd.identity cumulusd.state_file",
    "cumulusd.swarm.enrolment": f"{_PORTS} cumulusd.swarm cumulusd.provisioning",
    "cumulusd.swarm.joining": f"{_PORTS} cumulusd.swarm cumulusd.provisioning",
    "cumulusd.swarm.trial": f"{_PORTS} cumulusd.swarm cumulusd.provisioning",
    "cumulusd.provision_scripts": "cumulusd.errors",
    "cumulusd.smoke_script": "",  # runs in a job
    "cumulusd.smoke_jobs": f"{_COMMON} cumulusd.identity cumulusd.jobs cumulusd.relay",
    "cumulusd.local": f"{_PORTS} cumulusd.local =cumulusd cumulusd.job_network =cumulus_runner",
    "cumulusd.s3": "cumulusd.s3 cumulusd.errors cumulusd.tasks",
    "cumulusd.workers": f"{_PORTS} cumulusd.workers cumulusd.identity",
    "cumulusd.spec": "cumulus_wire cumulusd.errors cumulusd.jobs.model",
    "cumulusd.views": "cumulus_wire cumulusd.jobs.model cumulusd.jobs.ports",
    "cumulusd.job_search": "cumulus_wire cumulusd.errors cumulusd.jobs.model",
    "cumulusd.following": f"{_COMMON} cumulusd.identity cumulusd.jobs",
    "cumulusd.listings": f"{_COMMON} cumulusd.identity cumulusd.job_search cumulusd.jobs"
    " cumulusd.views",
    "cumulusd.worker_news": "cumulusd.tasks",
    "cumulusd.package_contents": "cumulus_wire cumulusd.errors",
    "cumulusd.stored_results": f"{_COMMON} cumulusd.jobs",
    "cumulusd.stored_outputs": f"{_COMMON} cumulusd.jobs",
    "cumulusd.log_text": f"{_COMMON} cumulusd.jobs",
    "cumulusd.lifecycle": f"{_COMMON} cumulusd.identity cumulusd.jobs",
    "cumulusd.submissions": f"{_COMMON} cumulusd.identity cumulusd.jobs cumulusd.spec"
    " cumulusd.package_contents",
    "cumulusd.relay": f"{_COMMON} =cumulusd cumulusd.identity cumulusd.jobs"
    " cumulusd.submissions cumulusd.views cumulusd.stored_results"
    " cumulusd.stored_outputs cumulusd.log_text cumulusd.lifecycle cumulusd.job_search"
    " cumulusd.following cumulusd.listings",
    "cumulusd.scram_keys": "cumulus_wire cumulusd.identity",
    "cumulusd.login_secret": "cumulusd.state_file",
    "cumulusd.protocol": f"{_COMMON} cumulusd.protocol cumulusd.identity cumulusd.origins"
    " cumulusd.peers cumulusd.pings cumulusd.scram_keys cumulusd.autobahn_log"
    " cumulusd.direct_write",
    "cumulusd.protocol.procedures": f"{_COMMON} cumulusd.protocol cumulusd.identity"
    " cumulusd.relay cumulusd.job_search cumulusd.jobs.model",
    "cumulusd.web": f"{_COMMON} cumulusd.web cumulusd.identity cumulusd.metrics cumulusd.origins"
    " cumulusd.peers cumulusd.pings cumulusd.relay cumulusd.autobahn_log cumulusd.bulk_frames"
    " cumulusd.direct_write",
    "cumulusd.chronos": f"{_COMMON} cumulusd.chronos",
    "cumulusd.agent": f"{_COMMON} cumulusd.agent cumulusd.chronos cumulusd.disk cumulusd.identity"
    " =cumulusd cumulusd.job_network cumulusd.autobahn_log cumulusd.bulk_frames"
    " cumulusd.direct_write",
    "cumulusd.agent.settings": "cumulus_wire cumulusd.agent cumulusd.log",
    "cumulusd.agent.__main__": f"{_COMMON} cumulusd.agent cumulusd.log",
    "cumulusd.parts": "cumulus_wire cumulusd",  # of tap: the parts as a value
    "cumulusd.service": "cumulus_wire cumulusd",  # of tap: the parts' life
    "cumulusd.assembly": "cumulus_wire cumulusd",  # of tap: the parts made
    "cumulusd.tap": "cumulus_wire cumulusd",
    "cumulusd.wiring": "cumulus_wire cumulusd",  # of assembly: what each platform brings
    "cumulusd.wiring_local": "cumulus_wire cumulusd",
    "cumulusd.wiring_swarm": "cumulus_wire cumulusd",
    "cumulusd.wiring_s3": "cumulus_wire cumulusd",
    "twisted.plugins": "",
}

#: Part -> what it may import from elsewhere beyond the standard library; None: anything.
OTHERS: dict[str, str | None] = {
    "cumulus_wire": "",
    "cumulus_runner": "",
    # A framework, and what speaks S3, only inside the functions that use it.
    "cumulus_runner.inside.runtime": "torch joblib xgboost lightgbm boto3 botocore",
    "cumulus_runner.inside.distributed_checkpointer": "runtime",
    "engines": "",
    "cumulus_client": "autobahn txaio cbor2 cloudpickle pathspec",
    "cumulus_client._scram": "cryptography",  # which Autobahn has loaded by then
    "cumulus_client.cli.status_area": "rich",
    "cumulus_client.share_probe": "pyopencl",  # a script that runs in a job
    "cumulusd": None,
    "cumulusd.jobs": "attrs twisted.internet.defer twisted.logger twisted.python.failure",
    "cumulusd.jobs.ended_job": "msgspec",
    "cumulusd.errors": "",
    "cumulusd.identity": "attrs",
}


def module_name(path: Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    if parts[-1] == "__init__":
        parts.pop()
    return ".".join(parts)


@functools.cache
def modules() -> dict[str, Path]:
    return {
        module_name(path): path
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
    }


def imports(module: str, source: str, is_package: bool) -> Iterator[tuple[int, str]]:
    """(line, what is imported); `from a import b` gives a.b, which may be a module or a name."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = module.split(".") if is_package else module.split(".")[:-1]
                above = above[: len(above) - (node.level - 1)]
                base = ".".join([*above, *([base] if base else [])])
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"


def holding(module: str, parts: Iterable[str]) -> str | None:
    """The part whose rule holds for that module."""
    fitting = [part for part in parts if module == part or module.startswith(part + ".")]
    return max(fitting, key=len, default=None)


def allowed(target: str, prefixes: str) -> bool:
    for prefix in prefixes.split():
        if prefix.startswith("="):
            package = prefix[1:]
            parent, _, name = target.rpartition(".")
            is_module = f"{package}.{name}" in modules()
            if target == package or (parent == package and not is_module):
                return True
        elif target == prefix or target.startswith(prefix + "."):
            return True
    return False


def broken(module: str, source: str, is_package: bool) -> list[str]:
    """What that module imports and may not."""
    found = []
    for line, target in imports(module, source, is_package):
        top = target.split(".")[0]
        where = f"{module}:{line} imports {target}"
        if top in ("cumulus_wire", "cumulusd", "cumulus_client", "cumulus_runner", "engines"):
            part = holding(module, OURS)
            if part is None or not allowed(target, OURS[part]):
                found.append(f"{where}: {part} may not")
        elif top not in sys.stdlib_module_names:
            part = holding(module, OTHERS)
            others = None if part is None else OTHERS[part]
            if others is not None and not allowed(target, others):
                found.append(f"{where}: {part} may import {others or 'the standard library'} only")
    return found


def reactor_imports(module: str, source: str) -> list[str]:
    """Imports of the global reactor, wherever they stand."""
    return [
        f"{module}:{line} imports the global reactor"
        for line, target in imports(module, source, False)
        if target == "twisted.internet.reactor" or target.startswith("twisted.internet.reactor.")
    ]


def test_there_is_something_to_look_at() -> None:
    found = modules()
    assert {"cumulusd.errors", "cumulus_wire.journal", "twisted.plugins.cumulusd_plugin"} <= set(
        found
    )


@pytest.mark.parametrize("module", modules())
def test_imports_point_the_right_way(module: str) -> None:
    path = modules()[module]
    assert broken(module, path.read_text(), path.name == "__init__.py") == []


@pytest.mark.parametrize("module", sorted(set(modules()) - {"cumulusd.tap"}))
def test_only_tap_takes_the_global_reactor(module: str) -> None:
    assert reactor_imports(module, modules()[module].read_text()) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("cumulusd.jobs.machine", "import cumulusd.relay"),
        ("cumulusd.jobs.machine", "from cumulusd import swarm"),
        ("cumulusd.jobs.machine", "from ..swarm import engine"),
        ("cumulusd.jobs.machine", "def f():\n    from cumulusd.web import site"),
        ("cumulusd.jobs.machine", "from twisted.internet import task"),
        ("cumulusd.jobs.machine", "import treq"),
        ("cumulusd.workers.workers", "from cumulusd.protocol.router import Router"),
        ("cumulusd.workers.workers", "from cumulusd.jobs.supervisor import Supervisor"),
        ("cumulusd.agent.agent", "from cumulusd.jobs.model import Grant"),
        ("cumulusd.chronos.ledger", "from cumulusd.jobs import model"),
        ("cumulusd.local.platform", "from cumulusd import swarm"),
        ("cumulusd.relay", "from cumulusd.tap import make_service"),
        ("cumulusd.relay", "from cumulusd import metrics"),
        ("cumulusd.protocol.dealer", "from cumulusd.jobs.model import JobRecord"),
        ("cumulusd.brand_new", "import cumulusd.jobs"),
        ("cumulus_client.client", "import cumulusd"),
        ("cumulus_client.client", "import twisted"),
        ("cumulus_runner.runner", "import attrs"),
        ("cumulus_runner.runner", "from cumulusd.errors import CumulusError"),
        ("cumulus_wire.journal", "import attrs"),
        ("twisted.plugins.cumulusd_plugin", "import cumulusd"),
    ],
)
def test_a_wrong_import_is_found(module: str, source: str) -> None:
    assert len(broken(module, source, False)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("cumulusd.jobs.machine", "from cumulusd.errors import CumulusError\nimport attrs, json"),
        ("cumulusd.jobs.machine", "from . import model\nfrom .ports import Clock"),
        ("cumulusd.jobs.machine", "from twisted.internet.defer import Deferred"),
        ("cumulusd.relay", "from cumulusd import __version__"),
        ("cumulusd.tap", "from cumulusd.swarm import engine"),
        ("cumulus_client.client", "from autobahn.asyncio import websocket"),
    ],
)
def test_a_right_import_passes(module: str, source: str) -> None:
    assert broken(module, source, False) == []


@pytest.mark.parametrize(
    "source", ["from twisted.internet import reactor", "import twisted.internet.reactor as r"]
)
def test_the_global_reactor_is_found(source: str) -> None:
    assert len(reactor_imports("cumulusd.log", source)) == 1
