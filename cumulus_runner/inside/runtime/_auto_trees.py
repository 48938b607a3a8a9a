"""Automatic checkpoints of XGBoost and LightGBM: a callback of their own in every `train`, that of
their scikit-learn models included."""

from __future__ import annotations

import functools

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ._auto import AutoCheckpointManager


def install_xgboost(xgboost: Any, manager: AutoCheckpointManager) -> None:
    """Has `xgboost.train` take the callback along."""

    class AutoCheckpoint(xgboost.callback.TrainingCallback):  # type: ignore[misc]
        """Saves after rounds, and at the end of the training."""

        def __init__(self, call: int) -> None:
            self._call = call

        def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
            """A round is over."""
            step = model.num_boosted_rounds()
            manager.stepped("xgboost", step, lambda: (model, None), call=self._call)
            return False

        def after_training(self, model: Any) -> Any:
            """The training is over: its last state is kept."""
            step = model.num_boosted_rounds()
            manager.save("xgboost", step, lambda: (model, None), call=self._call)
            return model

    _wrap_train(
        manager,
        "xgboost",
        (xgboost, xgboost.training, xgboost.sklearn),
        begun="xgb_model",
        callback=AutoCheckpoint,
    )


def install_lightgbm(lightgbm: Any, manager: AutoCheckpointManager) -> None:
    """Has `lightgbm.train` take the callback along."""

    class AutoCheckpoint:
        """Saves after rounds."""

        order = 100  # after those that look at the round's scores

        def __init__(self, call: int) -> None:
            self._call = call

        def __call__(self, env: Any) -> None:
            """A round is over."""
            booster, step = env.model, env.model.current_iteration()
            manager.stepped("lightgbm", step, lambda: (booster, None), call=self._call)

    def ended(booster: Any, call: int) -> None:
        step = booster.current_iteration()
        manager.save("lightgbm", step, lambda: (booster, None), call=call)

    _wrap_train(
        manager,
        "lightgbm",
        (lightgbm, lightgbm.engine, lightgbm.sklearn),
        begun="init_model",
        callback=AutoCheckpoint,
        ended=ended,
    )


def _wrap_train(
    manager: AutoCheckpointManager,
    framework: str,
    modules: tuple[Any, ...],
    *,
    begun: str,
    callback: Callable[[int], Any],
    ended: Callable[[Any, int], None] | None = None,
) -> None:
    """Puts another `train` into the modules. `begun`: the argument for a model to go on from."""
    import inspect  # with the framework there, it costs nothing more

    original = modules[0].train
    signature = inspect.signature(original)

    @functools.wraps(original)
    def train(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        call = manager.begin_call(framework)
        entry = manager.resumable(framework, call=call)
        if entry is not None and bound.arguments[begun] is None:
            model = manager.restore(framework, entry)
            if model is not None:
                left = bound.arguments["num_boost_round"] - int(entry["step"])
                manager.resumed(framework, entry)
                if left <= 0:
                    return model
                bound.arguments[begun], bound.arguments["num_boost_round"] = model, left
        bound.arguments["callbacks"] = [*(bound.arguments["callbacks"] or ()), callback(call)]
        trained = original(*bound.args, **bound.kwargs)
        if ended is not None:
            ended(trained, call)
        return trained

    for module in modules:
        if module.train is original:
            module.train = train
