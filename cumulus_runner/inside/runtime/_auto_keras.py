"""Automatic checkpoints of Keras: a callback of its own in every `fit`."""

from __future__ import annotations

import functools

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ._auto import AutoCheckpointManager

FRAMEWORK = "tensorflow"


def install(keras: Any, manager: AutoCheckpointManager) -> None:
    """Has `keras.Model.fit` take the callback along."""
    import inspect  # with the framework there, it costs nothing more

    original = keras.Model.fit
    signature = inspect.signature(original)
    watcher = make_callback(keras.callbacks.Callback, manager)

    @functools.wraps(original)
    def fit(self: Any, *args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(self, *args, **kwargs)
        given = bound.arguments.get("callbacks")
        call = manager.begin_call(FRAMEWORK)
        entry = manager.resumable(FRAMEWORK, call=call)
        callback = watcher(call, entry)
        if given is not None and hasattr(given, "append") and not isinstance(given, list):
            given.append(callback)  # a CallbackList
        else:
            callbacks = given if isinstance(given, (list, tuple)) else [given] if given else []
            bound.arguments["callbacks"] = [*callbacks, callback]
        if entry is not None:
            # Epochs that were finished aren't run again.
            begun = bound.arguments.get("initial_epoch", 0)
            bound.arguments["initial_epoch"] = max(begun, int(entry["epoch"]))
        return original(*bound.args, **bound.kwargs)

    keras.Model.fit = fit


def make_callback(base: type, manager: AutoCheckpointManager) -> Any:
    """The class of the callback."""

    class AutoCheckpoint(base):  # type: ignore[misc]
        """Saves after batches, and at the end of the training."""

        def __init__(self, call: int, entry: dict[str, Any] | None) -> None:
            super().__init__()
            self._call = call
            self._entry = entry
            self._epoch = 0
            self._step = 0 if entry is None else int(entry["step"])

        def on_train_begin(self, logs: Any = None) -> None:
            """Takes up the weights of before a pause."""
            entry = self._entry
            if entry is not None and manager.restore(FRAMEWORK, entry, self.model) is not None:
                manager.resumed(FRAMEWORK, entry)

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            """Notes the epoch."""
            self._epoch = epoch

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            """A step is over."""
            self._step += 1
            manager.stepped(
                FRAMEWORK,
                self._step,
                lambda: (self.model, None),
                epoch=self._epoch,
                call=self._call,
            )

        def on_train_end(self, logs: Any = None) -> None:
            """The training is over: its last state is kept."""
            manager.save(
                FRAMEWORK,
                self._step,
                lambda: (self.model, None),
                epoch=self._epoch + 1,
                call=self._call,
            )

    return AutoCheckpoint
