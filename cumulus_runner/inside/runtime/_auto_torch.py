"""Automatic checkpoints of PyTorch: by its own hooks around the steps of optimizers (2.0 on)."""

from __future__ import annotations

import gc
import importlib
import weakref

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ._auto import AutoCheckpointManager

FRAMEWORK = "pytorch"


def install(torch: Any, manager: AutoCheckpointManager) -> None:
    """Sets the hooks. Raises RuntimeError where PyTorch has none."""
    optimizer = importlib.import_module("torch.optim.optimizer")  # `torch.optim` hides its name
    if not hasattr(optimizer, "register_optimizer_step_post_hook"):
        raise RuntimeError(f"PyTorch {torch.__version__} has no hooks for steps: 2.0 has")
    training = Training(torch, manager)
    optimizer.register_optimizer_step_pre_hook(training.before_step)
    optimizer.register_optimizer_step_post_hook(training.after_step)


class Part:
    """One optimizer and the models whose parameters it has."""

    def __init__(self, number: int, optimizer: Any, models: list[Any]) -> None:
        self.number = number
        self.optimizer = weakref.ref(optimizer)
        self.models = models


class Training:
    """All optimizers of the process, numbered by their first steps."""

    def __init__(self, torch: Any, manager: AutoCheckpointManager) -> None:
        self._torch = torch
        self._manager = manager
        self._parts: list[Part] = []
        self._count = 0
        self._steps = 0
        self._state: Any = None

    def before_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        """At its first step an optimizer is met, and put where it was before a pause."""
        if any(part.optimizer() is optimizer for part in self._parts):
            return
        self._parts = [part for part in self._parts if part.optimizer() is not None]
        part = Part(self._count, optimizer, models_of(self._torch, optimizer))
        self._count += 1
        self._parts.append(part)
        try:
            self._resume(part, optimizer)
        except Exception as error:
            self._manager.not_resumed(FRAMEWORK, error)

    def after_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        """The first of the optimizers counts; all of them are saved."""
        alive = [part for part in self._parts if part.optimizer() is not None]
        if not alive or alive[0].optimizer() is not optimizer:
            return
        self._steps += 1
        numbers = [part.number for part in alive]
        self._manager.stepped(
            FRAMEWORK, self._steps, lambda: (_Models(alive), _Optimizers(alive)), numbers=numbers
        )

    def _resume(self, part: Part, optimizer: Any) -> None:
        manager = self._manager
        entry = manager.resumable(FRAMEWORK)
        numbers = [] if entry is None else entry["extra"].get("numbers", [])
        if entry is None or part.number not in numbers:
            return
        if self._state is None:
            self._state = manager.restore(FRAMEWORK, entry)
        if self._state is None:
            return
        models, own = self._state["model"], self._state["optimizer"]
        if len(numbers) > 1 or MANY in models:
            models, own = models[MANY][part.number], own[MANY][part.number]
        else:
            models = [models]
        if len(models) != len(part.models):
            raise ValueError(f"it has {len(models)} models, there are {len(part.models)} now")
        for model, state in zip(part.models, models):
            model.load_state_dict(state)
        optimizer.load_state_dict(own)
        # What was computed from the values before is no step for these.
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None
        self._steps = max(self._steps, int(entry["step"]))
        manager.resumed(FRAMEWORK, entry)
        if part.number == max(numbers):
            self._state = None


#: Where a state is of several optimizers or models, by their optimizer's number.
MANY = "cumulus_parts"


class _Models:
    """One state of all models: a single model's as it is, so that anybody can load it."""

    def __init__(self, parts: list[Part]) -> None:
        self._parts = parts

    def state_dict(self) -> Any:
        """Of now."""
        states = {part.number: [one.state_dict() for one in part.models] for part in self._parts}
        if len(states) == 1 and all(len(found) == 1 for found in states.values()):
            return next(iter(states.values()))[0]
        return {MANY: states}


class _Optimizers:
    """One state of all optimizers, in the same manner."""

    def __init__(self, parts: list[Part]) -> None:
        self._parts = parts

    def state_dict(self) -> Any:
        """Of now."""
        states = {}
        for part in self._parts:
            optimizer = part.optimizer()
            if optimizer is not None:
                states[part.number] = optimizer.state_dict()
        if len(self._parts) == 1 and len(self._parts[0].models) == 1:
            return states[self._parts[0].number]
        return {MANY: states}


class Loose:
    """Parameters that belong to no module."""

    def __init__(self, torch: Any, parameters: list[Any]) -> None:
        self._torch = torch
        self._parameters = parameters

    def state_dict(self) -> Any:
        """Of now."""
        return {str(number): one.detach() for number, one in enumerate(self._parameters)}

    def load_state_dict(self, state: Any) -> None:
        """In their place."""
        with self._torch.no_grad():
            for number, one in enumerate(self._parameters):
                one.copy_(state[str(number)])


def models_of(torch: Any, optimizer: Any) -> list[Any]:
    """The outermost modules that hold the optimizer's parameters: the smallest that has them all,
    else as many as it takes, in the order of the parameters.

    They are looked for among all objects there are, once for each optimizer: however a model came
    to be (copied, unpickled), it is found.
    """
    parameters = [one for group in optimizer.param_groups for one in group["params"]]
    place = {id(one): number for number, one in enumerate(parameters)}
    kind = torch.nn.Module
    modules = [one for one in gc.get_objects() if issubclass(type(one), kind)]
    inner = {id(child) for one in modules for child in one._modules.values()}
    held = []
    for module in modules:
        if id(module) not in inner:
            own = [id(one) for one in module.parameters()]
            places = {place[one] for one in own if one in place}
            if places:
                held.append((module, places, len(own)))
    whole = [found for found in held if len(found[1]) == len(place)]
    if whole:
        return [min(whole, key=lambda found: found[2])[0]]
    models, missing = [], set(place.values())
    for module, places, _ in sorted(held, key=lambda found: min(found[1])):
        if places & missing:
            models.append(module)
            missing -= places
    if missing:
        models.append(Loose(torch, [parameters[number] for number in sorted(missing)]))
    return models
