"""What a running daemon takes of its configuration when it is told to read it again (SIGHUP).

A configuration with faults changes nothing. A part that can't take it keeps what it had; the others
take it all the same.
"""

from collections.abc import Awaitable, Callable

from twisted.internet.defer import CancelledError
from twisted.logger import Logger

from cumulusd.config import Config, ConfigError

#: Takes what is its own of a configuration. What it raises is logged, and told by the metric.
Take = Callable[[Config], Awaitable[None]]


class Reloads:
    """The parts that can be told of a new configuration. One reload at a time."""

    _log = Logger()

    def __init__(self, config: Config) -> None:
        """`config`: the one that the daemon started with."""
        self._config = config
        self._parts: list[tuple[str, Take]] = []
        self._running = False
        self._again = False
        #: What the last reload left as it was, and why; None: nothing, or there was none.
        self.trouble: str | None = None

    def add(self, part: str, take: Take) -> None:
        """`take` is awaited with each new configuration, in the order of adding."""
        self._parts.append((part, take))

    async def reload(self, read: Callable[[], Awaitable[Config]]) -> None:
        """Reads and hands on. `read` raises ConfigError. Asked while one is under way, it follows
        that one. Raises nothing but CancelledError."""
        if self._running:
            self._again = True
            return
        self._running = True
        try:
            await self._once(read)
            while self._again:
                self._again = False
                await self._once(read)
        finally:
            self._running = False

    async def _once(self, read: Callable[[], Awaitable[Config]]) -> None:
        try:
            config = await read()
        except CancelledError:
            raise
        except Exception as error:
            if isinstance(error, ConfigError):
                self._log.error(
                    "reload: the configuration can't be used, nothing is changed:\n{faults}",
                    faults=str(error),
                )
            else:
                self._log.failure("reload: reading the configuration failed, nothing is changed")
            self.trouble = f"the configuration can't be used: {error}"
            return
        troubles = []
        for part, take in self._parts:
            try:
                await take(config)
            except CancelledError:
                raise
            except ValueError as error:
                self._log.error("reload: {part}: {why}", part=part, why=str(error))
                troubles.append(f"{part}: {error}")
            except Exception as error:
                self._log.failure("reload: {part} failed and keeps what it had", part=part)
                troubles.append(f"{part}: {error}")
        self.trouble = "; ".join(troubles) or None
        self._log.info(
            "reloaded: {parts}{later}",
            parts=", ".join(part for part, _ in self._parts) or "nothing",
            later=self._for_later(config),
        )

    def _for_later(self, config: Config) -> str:
        """What has changed and isn't taken."""
        before, after = _held(self._config), _held(config)
        changed = [name for name in before if before[name] != after[name]]
        if not changed:
            return ""
        return f"; changes of {', '.join(changed)} count from the daemon's next start"


def _held(config: Config) -> dict[str, object]:
    """By name, what a reload doesn't take."""
    held = {name: getattr(config, name) for name in Config.model_fields if name != "tokens"}
    held["log"] = config.log.model_copy(update={"level": "info"})
    return held
