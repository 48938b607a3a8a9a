"""The paths under `/provision`: a machine becomes a worker by its provisioning token, or leaves."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from twisted.logger import Logger

from cumulusd.errors import Conflict, CumulusError, NotAuthenticated, TooMany
from cumulusd.web.answers import Answer, Send, json_answer
from cumulusd.web.asked import Asked
from cumulusd.web.bodies import SmallBody
from cumulusd.web.provision_bodies import read_body

SCRIPTS = ("worker.sh", "manager.sh", "firewall.sh")
#: Requests under way at a time; each costs the daemon a few calls to the engine.
MAX_UNDER_WAY = 16


class Provision(Protocol):
    """The use cases. Each raises CumulusError; who has no token that fits, NotAuthenticated."""

    async def script(self, name: str) -> bytes:
        """One of `SCRIPTS`, made out to this daemon."""

    async def join(self, token: str, machine_id: str, hostname: str) -> dict[str, Any]:
        """Binds the token to the machine; what that needs to join."""

    async def enroll(self, token: str, node_id: str) -> dict[str, Any]:
        """Makes the node a worker."""

    async def status(self, token: str, node_id: str, retry: bool) -> dict[str, Any]:
        """How far it is."""

    async def leave(self, token: str, node_id: str, force: bool) -> dict[str, Any]:
        """Ends that."""

    async def image(self, token: str, image_id: str) -> Callable[[Send], Awaitable[None]]:
        """What sends an image."""


class ProvisionPages:
    """Decodes, asks, answers. Whoever has the token needs no other."""

    _log = Logger()

    def __init__(self, provision: Provision | None) -> None:
        """None: no worker can join this daemon."""
        self._provision = provision
        self._under_way = 0
        #: By the routes' names.
        self.handlers: Mapping[str, Callable[[Asked], Awaitable[Answer]]] = {
            **dict.fromkeys(SCRIPTS, self._script),
            "join": self._post(self._join, ("token", "machine_id", "hostname")),
            "enroll": self._post(self._enroll, ("token", "node_id")),
            "status": self._post(self._status, ("token", "node_id"), ("retry",)),
            "leave": self._post(self._leave, ("token", "node_id"), ("force",)),
            "image": self._image,
        }

    # -- inside

    def _cases(self) -> Provision:
        if self._provision is None:
            raise Conflict(
                "This daemon runs jobs on its own machine (platform: local): no worker can join it",
                hint="set platform.type to swarm in its configuration: docs/swarm.md",
            )
        return self._provision

    async def _script(self, asked: Asked) -> Answer:
        text = await self._cases().script(asked.head.path.strip("/").partition("/")[2])
        return Answer(status=200, body=text, content_type="text/x-shellscript; charset=utf-8")

    def _post(
        self,
        ask: Callable[[Provision, Mapping[str, Any]], Awaitable[dict[str, Any]]],
        needed: tuple[str, ...],
        flags: tuple[str, ...] = (),
    ) -> Callable[[Asked], Awaitable[Answer]]:
        async def answer(asked: Asked) -> Answer:
            cases = self._cases()
            data = bytes(asked.body.data) if isinstance(asked.body, SmallBody) else b""
            value = read_body(data, needed, flags)
            if self._under_way >= MAX_UNDER_WAY:
                raise TooMany(f"{MAX_UNDER_WAY} nodes are being served", hint="try again soon")
            self._under_way += 1
            try:
                return json_answer(await ask(cases, value))
            except NotAuthenticated as error:
                # Anybody may try, as often as they like: not to fill the log with.
                self._log.debug("{path}: {why}", path=asked.head.path, why=error.message)
                raise
            except CumulusError as error:
                self._log.warn("{path} was refused: {why}", path=asked.head.path, why=error.message)
                raise
            finally:
                self._under_way -= 1

        return answer

    async def _join(self, cases: Provision, value: Mapping[str, Any]) -> dict[str, Any]:
        return await cases.join(value["token"], value["machine_id"], value["hostname"])

    async def _enroll(self, cases: Provision, value: Mapping[str, Any]) -> dict[str, Any]:
        return await cases.enroll(value["token"], value["node_id"])

    async def _status(self, cases: Provision, value: Mapping[str, Any]) -> dict[str, Any]:
        return await cases.status(value["token"], value["node_id"], value["retry"])

    async def _leave(self, cases: Provision, value: Mapping[str, Any]) -> dict[str, Any]:
        return await cases.leave(value["token"], value["node_id"], value["force"])

    async def _image(self, asked: Asked) -> Answer:
        cases = self._cases()
        scheme, _, token = (asked.head.authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise NotAuthenticated(
                "The machine's provisioning token is needed",
                hint="send the header `Authorization: Bearer cpt_…`",
            )
        send = await cases.image(token.strip(), asked.parameters["image_id"])
        return Answer(status=200, pushed=send, content_type="application/x-tar")
