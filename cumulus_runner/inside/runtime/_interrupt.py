"""A checkpoint at the last moment."""

from __future__ import annotations

import signal
import sys
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType, TracebackType
    from typing import Any

    from ._checkpoints import Checkpointer

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class save_on_interrupt:
    """A `with` block that saves a checkpoint when it is interrupted.

    SIGINT becomes KeyboardInterrupt and SIGTERM, which stops a job, SystemExit(143), as soon as
    Python comes to it; the checkpoint is written while that leaves the block. A job has a few
    seconds for it. Further signals wait until it is written.
    """

    def __init__(
        self,
        checkpointer: Checkpointer,
        model: Any,
        optimizer: Any,
        get_epoch: Callable[[], int],
        get_step: Callable[[], int],
    ) -> None:
        self._checkpointer = checkpointer
        self._objects = (model, optimizer)
        self._get_epoch = get_epoch
        self._get_step = get_step
        self._before: dict[signal.Signals, Any] = {}
        self._interrupted = False

    def __enter__(self) -> save_on_interrupt:
        self._interrupted = False
        # Elsewhere Python lets nobody handle signals; what is raised then is handled all the same.
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._before[number] = signal.signal(number, self._interrupt)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if self._interrupted or isinstance(error, KeyboardInterrupt):
                self._interrupted = True
                self._save()
        finally:
            for number, handler in self._before.items():
                # None: it was set by something that isn't Python, and can't be set again.
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
            self._before.clear()

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._interrupted:
            return
        self._interrupted = True
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)

    def _save(self) -> None:
        model, optimizer = self._objects
        try:
            self._checkpointer.save_checkpoint(
                model, optimizer, int(self._get_epoch()), int(self._get_step())
            )
        except Exception as error:
            # What interrupted goes on as it was; it isn't to be hidden by this.
            sys.stderr.write(
                f"cumulus: no checkpoint could be saved at the interrupt: "
                f"{type(error).__name__}: {error}\n"
            )
