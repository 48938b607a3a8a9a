"""A connection, as its session sees it."""

from typing import Protocol


class Connection(Protocol):
    """What a session needs of its transport. None of these raises."""

    @property
    def peer_name(self) -> str:
        """Who is there, for logs."""

    @property
    def secure(self) -> bool:
        """Nobody on a network reads along: TLS, loopback, a unix socket."""

    @property
    def source(self) -> str | None:
        """What counts as its address (`admission.source_of`)."""

    def pause_reading(self) -> None:
        """Reads no more until `resume_reading`."""

    def resume_reading(self) -> None:
        """Reads on."""

    def write_message(self, payload: bytes, is_binary: bool) -> None:
        """Hands one message to the transport; dropped when the connection is closing."""

    def write_pong(self, payload: bytes) -> None:
        """Hands one pong to the transport; dropped when the connection is closing."""

    def close(self) -> None:
        """Closes it after what was written."""

    def abort(self) -> None:
        """Closes it now."""
