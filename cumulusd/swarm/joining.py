"""What a machine is told that is to become a worker, and the images that it gets from here."""

import ipaddress
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol
from urllib.parse import urlsplit

import attrs

from cumulusd.errors import NotFound, TooMany, Unavailable
from cumulusd.jobs.model import UNITS_PER_DEVICE
from cumulusd.jobs.ports import Clock, RunInThread
from cumulusd.provisioning import Provisioning
from cumulusd.swarm.answers import ImageInfo, JoinInfo, SwarmInfo
from cumulusd.swarm.image_reference import ImageBy, chosen
from cumulusd.tasks import Signal, wait_at_most

#: Images on their way at a time; each is read from the engine's disk and held nowhere.
MAX_DOWNLOADS = 4
#: Of one token at a time: a machine gets one after the other, and a connection may hang.
MAX_OF_ONE = 2
#: So many more wait for their turn, each for so long.
MAX_WAITING = 64
TURN_S = 30.0

Send = Callable[[bytes], Awaitable[None]]


class JoinEngine(Protocol):
    """What is asked of the Swarm: `Engine` has it. Errors are CumulusError subclasses."""

    async def info(self) -> SwarmInfo: ...
    async def join_info(self) -> JoinInfo: ...
    async def image(self, reference: str) -> ImageInfo: ...
    async def export_image(self, image_id: str, send: Send) -> None: ...


@attrs.frozen(kw_only=True)
class JoinSettings:
    """What of the configuration a machine is told. `None` and empty: found out."""

    advertise_url: str
    worker_root: str
    images: Sequence[str]  #: as configured: the jobs' and the agents'
    image_by: ImageBy
    deny: Sequence[str] = ()
    manager_addresses: Sequence[str] = ()
    daemon_addresses: Sequence[str] = ()
    chronos_source: str | None = None
    chronos_sha256: str | None = None
    remote_api_port: int | None = None
    count_cpu_devices: bool = False  #: what agents are told of it


class Joining:
    """The use cases behind `POST /provision/join` and `GET /provision/images/…`."""

    def __init__(
        self,
        *,
        provisioning: Provisioning,
        engine: JoinEngine,
        settings: JoinSettings,
        clock: Clock,
        run_in_thread: RunInThread,
    ) -> None:
        self._clock = clock
        self._turn = Signal()
        self._waiting = 0
        self._by_token: Counter[str] = Counter()  #: token id -> downloads
        self._provisioning = provisioning
        self._engine = engine
        self._settings = settings
        self._run_in_thread = run_in_thread
        self._downloads = 0

    async def join(self, token: str, machine_id: str, hostname: str) -> dict[str, Any]:
        """Binds the token to the machine and tells it all that it needs, as docs/protocol.md has
        it. Raises NotAuthenticated, Conflict, NotFound (an image), Unavailable.

        Once a node has redeemed the token, the machine is told no join token any more.
        """
        bound = await self._run_in_thread(
            lambda: self._provisioning.bind(token, machine_id, hostname)
        )
        settings = self._settings
        images = [await self._image(name) for name in settings.images]
        info, joining = await self._engine.info(), await self._engine.join_info()
        daemon_addresses = await self._daemon_addresses()
        # Who was revoked meanwhile is told nothing: what is told from here on is changed again.
        await self._run_in_thread(lambda: self._provisioning.bearer(token))
        addresses = list(settings.manager_addresses or info.manager_addresses)
        if not addresses:
            raise Unavailable(
                "the Swarm tells no address at which nodes join it",
                hint="set provisioning.manager_addresses, or `docker swarm init "
                "--advertise-addr ADDRESS` anew on the manager",
            )
        return {
            "swarm": {
                "join_token": None if bound.node_id else joining.worker_token,
                "manager_addresses": addresses,
                "swarm_id": joining.swarm_id,
            },
            "daemon": {
                "addresses": daemon_addresses,
                "url": settings.advertise_url,
            },
            "worker_root": settings.worker_root,
            "images": images,
            "deny": list(settings.deny),
            "agent_options": {"count_cpu_devices": settings.count_cpu_devices},
            "units_per_device": UNITS_PER_DEVICE,
            "chronos": {"source": settings.chronos_source, "sha256": settings.chronos_sha256},
            "remote_api": None
            if settings.remote_api_port is None
            else {"port": settings.remote_api_port},
        }

    async def image(self, token: str, image_id: str) -> Callable[[Send], Awaitable[None]]:
        """What sends one of the images that `join` named, as a tar archive, at its reader's pace;
        it is this reader's turn, if it is called at once. Raises NotAuthenticated, Conflict,
        NotFound, TooMany, Unavailable; what it gives, Unavailable, also in the middle.
        """
        bearer = await self._run_in_thread(lambda: self._provisioning.bearer(token))
        named = [await self._image(name) for name in self._settings.images]
        if image_id not in [one["id"] for one in named]:
            raise NotFound(
                f"the image {image_id[:100]} is none that workers need",
                hint="POST /provision/join names them; ask again, they may have been renewed",
            )
        await self._wait_for_turn()
        whose = bearer.token_id
        if self._by_token[whose] >= MAX_OF_ONE:
            raise TooMany(
                f"{MAX_OF_ONE} images are on their way by the provisioning token {whose}",
                hint="wait for them; each machine needs a token of its own",
            )

        async def send_all(send: Send) -> None:
            self._downloads += 1
            self._by_token[whose] += 1
            try:
                await self._engine.export_image(image_id, send)
            finally:
                self._downloads -= 1
                self._by_token -= Counter({whose: 1})
                self._turn.fire()

        return send_all

    # -- inside

    async def _wait_for_turn(self) -> None:
        ends_s = self._clock.seconds() + TURN_S
        self._waiting += 1
        try:
            # Who is woken begins before the next one is, and is counted by then.
            while self._downloads >= MAX_DOWNLOADS:
                left_s = ends_s - self._clock.seconds()
                if self._waiting > MAX_WAITING or left_s <= 0:
                    raise TooMany(
                        f"{self._downloads} workers are getting images now, {self._waiting} wait",
                        hint="try again in some minutes",
                    )
                await wait_at_most(self._clock, left_s, self._turn.wait())
        finally:
            self._waiting -= 1

    async def _image(self, name: str) -> dict[str, Any]:
        try:
            image = await self._engine.image(name)
        except NotFound as error:
            raise NotFound(
                f"the Swarm manager doesn't have the image {name}, which workers need",
                details=error.details,
                hint="load, build or pull it on the manager: images/build all",
            ) from error
        reference = chosen(name, image, self._settings.image_by)
        return {
            "name": name,
            "id": image.image_id,
            "size_bytes": image.size_bytes,
            "registry_reference": None if reference == image.image_id else reference,
        }

    async def _daemon_addresses(self) -> list[str]:
        """ "ip:port" of the daemon, for the workers' firewalls."""
        if self._settings.daemon_addresses:
            return list(self._settings.daemon_addresses)
        parts = urlsplit(self._settings.advertise_url)
        host, port = str(parts.hostname), parts.port
        try:
            address = ipaddress.ip_address(host)
            return [f"[{host}]:{port}" if address.version == 6 else f"{host}:{port}"]
        except ValueError:
            pass
        try:
            found = await self._run_in_thread(
                lambda: socket.getaddrinfo(host, port, socket.AF_INET, socket.SOCK_STREAM)
            )
        except OSError as error:
            raise Unavailable(
                f"the daemon's own name {host} can't be looked up: {error}",
                hint="set provisioning.daemon_addresses, or an address in "
                "platform.swarm.advertise_url",
            ) from error
        return sorted({f"{where[0]}:{port}" for *_, where in found})
