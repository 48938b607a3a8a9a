"""Automatic checkpoints of scikit-learn: after the `fit` of outermost estimators."""

from __future__ import annotations

import functools
import threading

from ._formats import of_objects

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ._auto import AutoCheckpointManager

FRAMEWORK = "sklearn"
METHODS = ("fit", "partial_fit")


def install(base: Any, manager: AutoCheckpointManager) -> None:
    """Wraps `fit` and `partial_fit` of every estimator there is and will be."""
    estimator = base.BaseEstimator
    inside = threading.local()
    own = estimator.__dict__.get("__init_subclass__")

    def init_subclass(cls: Any, /, **kwargs: Any) -> None:
        if own is not None:
            own.__func__(cls, **kwargs)
        else:
            super(estimator, cls).__init_subclass__(**kwargs)
        wrap(cls, manager, inside)

    estimator.__init_subclass__ = classmethod(init_subclass)
    ahead = list(estimator.__subclasses__())
    while ahead:
        one = ahead.pop()
        wrap(one, manager, inside)
        ahead += one.__subclasses__()


def wrap(kind: Any, manager: AutoCheckpointManager, inside: threading.local) -> None:
    """Wraps what the class itself defines."""
    for name in METHODS:
        original = kind.__dict__.get(name)
        if not callable(original) or getattr(original, "_cumulus_wrapped", False):
            continue

        def wrapper(original: Any, name: str) -> Any:
            @functools.wraps(original)
            def method(self: Any, *args: Any, **kwargs: Any) -> Any:
                if getattr(inside, "busy", False):
                    return original(self, *args, **kwargs)
                # XGBoost's and LightGBM's models have hooks of their own.
                counts = of_objects(self).framework == FRAMEWORK
                inside.busy = True
                try:
                    if counts:
                        before_fit(manager, self, name)
                    result = original(self, *args, **kwargs)
                finally:
                    inside.busy = False
                if not counts:
                    return result
                manager.stepped(
                    FRAMEWORK, manager.state(FRAMEWORK)["step"] + 1, lambda: (self, None)
                )
                return result

            method._cumulus_wrapped = True  # type: ignore[attr-defined]
            return method

        setattr(kind, name, wrapper(original, name))


def before_fit(manager: AutoCheckpointManager, estimator: Any, name: str) -> None:
    """The process's first fit goes on from before a pause, where fits build on one another."""
    state = manager.state(FRAMEWORK)
    if state["calls"] or not (name == "partial_fit" or getattr(estimator, "warm_start", False)):
        return
    manager.begin_call(FRAMEWORK)
    entry = manager.resumable(FRAMEWORK)
    if entry is not None and manager.restore(FRAMEWORK, entry, estimator) is not None:
        manager.resumed(FRAMEWORK, entry)
