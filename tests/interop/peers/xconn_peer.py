"""xconn-core (a WAMP client in Rust, with Python over it) as a process: xconn_peer.py ORDERS.

What the orders hold and what is printed: `tests/interop/clients.py`.
"""

import json
import sys
import threading
from pathlib import Path
from typing import Any

from xconn_core import auth, serializers
from xconn_core.client import Client
from xconn_core.exception import ApplicationError

SERIALIZERS = {
    "cbor": serializers.CBORSerializer,
    "msgpack": serializers.MsgPackSerializer,
    "json": serializers.JSONSerializer,
}
AUTHENTICATORS = {"ticket": auth.TicketAuthenticator, "cryptosign": auth.CryptoSignAuthenticator}
TIMEOUT_S = 60


def in_json(data: bytes, serializer: str) -> Any:
    """Binary as this client sends it: in JSON by WAMP's own convention, which it leaves to us."""
    import base64

    return "\0" + base64.b64encode(data).decode() if serializer == "json" else data


def from_json(data: Any) -> bytes:
    import base64

    return base64.b64decode(data[1:]) if isinstance(data, str) else bytes(data)


def main(orders: dict[str, Any]) -> dict[str, Any]:
    """All of it."""
    authenticator = AUTHENTICATORS[orders["method"]](orders["authid"], orders["secret"])
    client = Client(authenticator, SERIALIZERS[orders["serializer"]]())
    session = client.connect(orders["url"], "cumulus")

    def ask(procedure: str, **kwargs: Any) -> dict[str, Any]:
        return dict(session.call(procedure).kwargs(**kwargs).execute().kwargs)

    found: dict[str, Any] = {
        "authid": session.details.authid,
        "authrole": session.details.authrole,
        "authmethod": orders["method"],
    }
    try:
        ask("cumulus.job.get", job_id="nothing")
    except ApplicationError as error:
        found["error"] = {"uri": error.uri, "args": list(error.args), "kwargs": error.kwargs}
    for name in ("follow", "stop"):
        data = Path(orders[name]["path"]).read_bytes()
        package = orders[name]["spec"]["package"]
        ask("cumulus.package.check", **package)
        ask(
            "cumulus.package.put",
            sha256=package["sha256"],
            offset=0,
            data=in_json(data, orders["serializer"]),
        )
        ask("cumulus.package.commit", **package)
    found["followed"] = follow(session, orders)
    found["stopped"] = stop(session, orders, ask)
    session.leave()
    return found


def follow(session: Any, orders: dict[str, Any]) -> dict[str, Any]:
    kinds, frames = [], b""
    call = session.call("cumulus.job.submit").kwargs(spec=orders["follow"]["spec"])
    for result in call.stream():
        kinds.append(result.kwargs["event"])
        if "frames" in result.kwargs:
            frames += from_json(result.kwargs["frames"])
    return {
        "kinds": kinds[:-1],
        "frames": frames.hex(),
        "end": kinds[-1],
        "status": result.kwargs["job"]["status"],
    }


def stop(session: Any, orders: dict[str, Any], ask: Any) -> dict[str, Any]:
    topic: list[str] = []
    told = threading.Event()

    def happened(event: Any) -> None:
        topic.append(event.kwargs["job"]["status"])
        if topic[-1] == "cancelled":
            told.set()

    call = session.call("cumulus.job.submit").kwargs(spec=orders["stop"]["spec"]).stream()
    job_id = call.receive().kwargs["job"]["job_id"]
    session.subscribe(f"cumulus.job.{job_id}.status", happened).execute()
    # A second one that follows it, and stops following.
    following = session.call("cumulus.job.attach").kwargs(job_id=job_id).stream()
    following.receive()
    following.cancel()
    answer = ask("cumulus.job.cancel", job_id=job_id)
    results = list(call)
    assert told.wait(TIMEOUT_S), topic
    return {
        "cancelled": answer["cancelled"],
        "status": results[-1].kwargs["job"]["status"],
        "topic": topic[-1],
    }


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
