"""Checkpoints that the code doesn't ask for: hooks in the frameworks, set as they are imported."""

from __future__ import annotations

import os
import sys
import threading
import time

from . import _auto_keras, _auto_sklearn, _auto_torch, _auto_trees, _imports
from ._checkpoints import get_last_checkpoint_info
from ._control import CooperativePause, pause_asked
from ._distributed import get_checkpointer
from ._places import every_seconds, every_steps, flag, job_id, keep_checkpoints

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ._checkpoints import Checkpointer

#: Framework -> the modules whose import sets its hooks, and what sets them.
_HOOKS: dict[str, tuple[tuple[str, ...], Callable[[Any, AutoCheckpointManager], None]]] = {
    "pytorch": (("torch",), _auto_torch.install),
    "tensorflow": (("keras", "tf_keras"), _auto_keras.install),
    "sklearn": (("sklearn.base",), _auto_sklearn.install),
    "xgboost": (("xgboost",), _auto_trees.install_xgboost),
    "lightgbm": (("lightgbm",), _auto_trees.install_lightgbm),
}


class AutoCheckpointManager:
    """Saves every CUMULUS_CHECKPOINT_EVERY_STEPS steps or CUMULUS_CHECKPOINT_EVERY_SECONDS, and
    when the job is to pause; a job that begins again goes on from the newest.

    One per process: `get_auto_checkpoint_manager()`. What a hook can't do is said on stderr; it
    never ends the job.
    """

    def __init__(self) -> None:
        """Does nothing where CUMULUS_AUTO_CHECKPOINT says no."""
        self.enabled = flag("CUMULUS_AUTO_CHECKPOINT", True)
        #: Framework -> {"step", "resumed", …}: how far its training is.
        self.framework_state: dict[str, dict[str, Any]] = {}
        self._status: dict[str, str] = {}
        self._saver: Checkpointer | None = None
        self._before: list[dict[str, Any]] | None = None
        self._pid = os.getpid()
        self._told: set[str] = set()
        if self.enabled:
            every_steps(), every_seconds(), keep_checkpoints()  # what is no number is said now
        for framework, (modules, install) in _HOOKS.items():
            self._status[framework] = "not imported yet" if self.enabled else "disabled"
            for module in modules if self.enabled else ():
                _imports.watch(module, self._installer(framework, install))

    @property
    def last_checkpoint_info(self) -> dict[str, Any] | None:
        """As `get_last_checkpoint_info`."""
        return get_last_checkpoint_info()

    def get_framework_status(self) -> dict[str, str]:
        """Framework -> "ok" once its hooks are set, or why they aren't."""
        return dict(self._status)

    # -- for the hooks

    def state(self, framework: str) -> dict[str, Any]:
        """What is known of its training."""
        fresh = {"step": 0, "resumed": False, "calls": 0, "saved_at": time.monotonic()}
        return self.framework_state.setdefault(framework, fresh)

    def begin_call(self, framework: str) -> int:
        """Counts calls that train, so that each goes on from its own checkpoint only."""
        state = self.state(framework)
        state["calls"] += 1
        return int(state["calls"])

    def stepped(
        self, framework: str, step: int, save: Callable[[], tuple[Any, Any]], **about: Any
    ) -> None:
        """A step is over: saves when one is due, or the job is to pause; then raises
        CooperativePause. `save` gives model and optimizer, `about` goes into the checkpoint."""
        state = self.state(framework)
        state["step"] = step
        if os.getpid() != self._pid:
            return  # a child that was forked: the job's training is its parent's
        pausing = pause_asked()
        seconds = every_seconds()
        due = step > 0 and step % every_steps() == 0
        due = due or (seconds > 0 and time.monotonic() - state["saved_at"] >= seconds)
        if (due or pausing) and self.save(framework, step, save, **about) and pausing:
            raise CooperativePause(f"paused after step {step} of {framework}")

    def save(
        self,
        framework: str,
        step: int,
        save: Callable[[], tuple[Any, Any]],
        epoch: int = 0,
        **about: Any,
    ) -> bool:
        """Writes a checkpoint; False, and said on stderr, when that failed."""
        state = self.state(framework)
        state["saved_at"] = time.monotonic()
        extra = {"auto": True, **about}
        try:
            self._started()
            model, optimizer = save()
            self._checkpointer().save_checkpoint(model, optimizer, epoch, step, extra, framework)
        except Exception as error:
            self.say(f"no automatic checkpoint of {framework}: {type(error).__name__}: {error}")
            return False
        return True

    def resumable(self, framework: str, **about: Any) -> dict[str, Any] | None:
        """The newest checkpoint that hooks made before this process, if it has that in it."""
        for entry in reversed(self._started()):
            extra = entry.get("extra") or {}
            if entry.get("framework") == framework and extra.get("auto"):
                fits = all(extra.get(key) == value for key, value in about.items())
                return entry if fits else None
        return None

    def restore(self, framework: str, entry: dict[str, Any], model: Any = None) -> Any:
        """Loads that checkpoint; its state, None (and said on stderr) when that failed."""
        try:
            found = self._checkpointer().load_checkpoint(model, None, entry["filename"], framework)
        except Exception as error:
            self.not_resumed(framework, error)
            return None
        return found["state"]

    def resumed(self, framework: str, entry: dict[str, Any]) -> None:
        """Its training goes on from there."""
        self.state(framework).update(step=entry["step"], resumed=True)
        self.say(f"{framework} goes on from its checkpoint of step {entry['step']}")

    def not_resumed(self, framework: str, error: Exception) -> None:
        """Its checkpoint can't be used."""
        self.say(
            f"{framework} begins anew, its checkpoint can't be used: "
            f"{type(error).__name__}: {error}"
        )

    def say(self, text: str) -> None:
        """On stderr, each thing once."""
        if text not in self._told and len(self._told) < 100:
            self._told.add(text)
            sys.stderr.write(f"cumulus: {text}\n")

    # -- inside

    def _checkpointer(self) -> Checkpointer:
        if self._saver is None:
            self._saver = get_checkpointer()
        return self._saver

    def _started(self) -> list[dict[str, Any]]:
        """The checkpoints there were when this process began to train. None outside of a job: a
        script that is tried twice begins twice."""
        if self._before is None:
            self._before = []
            if job_id() is not None:
                try:
                    self._before = self._checkpointer()._entries()
                except Exception as error:
                    self.say(f"the job's checkpoints can't be listed: {error}")
        return self._before

    def _installer(
        self, framework: str, install: Callable[[Any, AutoCheckpointManager], None]
    ) -> Callable[[Any], None]:
        def imported(module: Any) -> None:
            try:
                install(module, self)
            except Exception as error:
                self._status[framework] = f"failed: {type(error).__name__}: {error}"
                self.say(f"no automatic checkpoints of {framework}: {error}")
            else:
                self._status[framework] = "ok"

        return imported


_manager: AutoCheckpointManager | None = None
_making = threading.Lock()


def get_auto_checkpoint_manager() -> AutoCheckpointManager:
    """The process's manager; made, and its hooks set, at the first call."""
    global _manager
    with _making:
        if _manager is None:
            _manager = AutoCheckpointManager()
        return _manager
