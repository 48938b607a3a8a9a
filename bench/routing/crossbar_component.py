"""What Crossbar serves by itself, inside its router worker: the counterpart of open_router's.

Crossbar runs it, in an environment of its own; nothing of Cumulus is imported here.
"""

from autobahn.twisted.wamp import ApplicationSession
from autobahn.wamp.types import CallResult, RegisterOptions
from twisted.internet import reactor
from twisted.internet.task import deferLater

_AT_ONCE = 32  #: progressive results per reactor turn: Crossbar itself bounds nothing


class Bench(ApplicationSession):
    """`bench.echo` and `bench.stream`."""

    async def onJoin(self, details):
        async def echo(**kwargs):
            return CallResult(**kwargs)

        async def stream(count, size_bytes, details=None):
            data = "x" * size_bytes
            for number in range(count):
                details.progress(data=data)
                if number % _AT_ONCE == _AT_ONCE - 1:
                    await deferLater(reactor, 0, lambda: None)
            return CallResult()

        await self.register(echo, "bench.echo")
        await self.register(stream, "bench.stream", RegisterOptions(details_arg="details"))
        await self.register(self._ready, "bench.ready")

    def _ready(self):
        return True
