"""How each framework's models are written and read. A framework is imported when it is used."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Format:
    """One framework's files."""

    #: As `load_checkpoint` and the list of checkpoints have it.
    framework: str
    suffix: str
    #: Packages whose classes it is for.
    packages: tuple[str, ...]

    def save(self, path: str, model: Any, optimizer: Any, about: dict[str, Any]) -> None:
        """Writes the model; `about`: epoch, step and extra."""
        raise NotImplementedError

    def load(self, path: str, model: Any, optimizer: Any) -> Any:
        """Reads the file, into `model` and `optimizer` where they are given. The state."""
        raise NotImplementedError


class PyTorch(Format):
    """One dict: epoch, step, extra, model, optimizer, and the generators of random numbers."""

    framework, suffix, packages = "pytorch", ".pt", ("torch",)

    def save(self, path: str, model: Any, optimizer: Any, about: dict[str, Any]) -> None:
        """See Format."""
        import torch

        cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
        torch.save(
            {
                **about,
                "model": model.state_dict(),
                "optimizer": None if optimizer is None else optimizer.state_dict(),
                "rng_cpu": torch.random.get_rng_state(),
                "rng_cuda": torch.cuda.get_rng_state_all() if cuda else None,
            },
            path,
        )

    def load(self, path: str, model: Any, optimizer: Any) -> Any:
        """See Format. The state is the dict."""
        import torch

        # Not weights only: `extra` may hold anything, and the file is the job's own.
        state = torch.load(path, map_location="cpu", weights_only=False)
        if not isinstance(state, dict):
            return state
        if model is not None:
            model.load_state_dict(state["model"])
        if optimizer is not None and state.get("optimizer") is not None:
            optimizer.load_state_dict(state["optimizer"])
        if state.get("rng_cpu") is not None:
            torch.random.set_rng_state(state["rng_cpu"])
        cuda = state.get("rng_cuda")
        if cuda is not None and torch.cuda.is_available():
            # Another worker may have fewer devices.
            torch.cuda.set_rng_state_all(cuda[: torch.cuda.device_count()])
        return state


class Keras(Format):
    """The weights, as Keras writes them: the optimizer's state isn't among them."""

    framework, suffix, packages = "tensorflow", ".weights.h5", ("keras", "tf_keras", "tensorflow")

    def save(self, path: str, model: Any, optimizer: Any, about: dict[str, Any]) -> None:
        """See Format."""
        model.save_weights(path)

    def load(self, path: str, model: Any, optimizer: Any) -> Any:
        """See Format. The state is the model. Raises ValueError without one."""
        if model is None:
            raise ValueError(
                f"{path} holds weights only: give the model they are for, load_checkpoint(model)"
            )
        model.load_weights(path)
        return model


class XGBoost(Format):
    """JSON, of a Booster or of a model with scikit-learn's interface."""

    framework, suffix, packages = "xgboost", ".json", ("xgboost",)

    def save(self, path: str, model: Any, optimizer: Any, about: dict[str, Any]) -> None:
        """See Format."""
        model.save_model(path)

    def load(self, path: str, model: Any, optimizer: Any) -> Any:
        """See Format. The state is the model, a Booster where none is given."""
        if model is None:
            import xgboost

            model = xgboost.Booster()
        model.load_model(path)
        return model


class LightGBM(Format):
    """LightGBM's text, of a Booster or of a model with scikit-learn's interface."""

    framework, suffix, packages = "lightgbm", ".txt", ("lightgbm",)

    def save(self, path: str, model: Any, optimizer: Any, about: dict[str, Any]) -> None:
        """See Format."""
        booster = getattr(model, "booster_", model)
        # `best_iteration` would leave out trees that training goes on from.
        booster.save_model(path, num_iteration=-1)

    def load(self, path: str, model: Any, optimizer: Any) -> Any:
        """See Format. The state is a Booster; a Booster that is given becomes it."""
        import lightgbm

        if isinstance(model, lightgbm.Booster):
            with open(path, encoding="utf-8") as file:
                return model.model_from_string(file.read())
        return lightgbm.Booster(model_file=path)


class Sklearn(Format):
    """A pickle of the whole estimator, by joblib where that is installed."""

    framework, suffix, packages = "sklearn", ".pkl", ("sklearn",)

    def save(self, path: str, model: Any, optimizer: Any, about: dict[str, Any]) -> None:
        """See Format."""
        try:
            import joblib
        except ImportError:
            import pickle

            with open(path, "wb") as file:
                pickle.dump(model, file, protocol=4)
        else:
            joblib.dump(model, path)

    def load(self, path: str, model: Any, optimizer: Any) -> Any:
        """See Format. The state is the estimator; one that is given takes over what it was."""
        try:
            import joblib
        except ImportError:
            import pickle

            with open(path, "rb") as file:
                estimator = pickle.load(file)
        else:
            estimator = joblib.load(path)
        if model is None:
            return estimator
        if type(model) is not type(estimator):
            raise TypeError(
                f"{path} holds a {type(estimator).__name__}, not a {type(model).__name__}"
            )
        model.__dict__.update(estimator.__dict__)
        return model


FORMATS = (PyTorch(), Keras(), XGBoost(), LightGBM(), Sklearn())
_ALIASES = {
    "torch": "pytorch",
    "keras": "tensorflow",
    "tf": "tensorflow",
    "xgb": "xgboost",
    "lgb": "lightgbm",
    "lgbm": "lightgbm",
    "scikit-learn": "sklearn",
    "joblib": "sklearn",
}


def named(framework: str) -> Format:
    """The format of that framework. Raises ValueError."""
    name = _ALIASES.get(framework.lower(), framework.lower())
    for one in FORMATS:
        if one.framework == name:
            return one
    raise ValueError(f"no framework {framework!r}; known: {_known()}")


def of_objects(*objects: Any) -> Format:
    """The format of the framework that model or optimizer come from. Raises TypeError."""
    for one in objects:
        found = None if one is None else _of_type(type(one))
        if found is not None:
            return found
    kinds = [f"{type(one).__module__}.{type(one).__qualname__}" for one in objects]
    raise TypeError(
        f"can't tell which framework {kinds[0]} is of; say so, framework=…: {_known()}"
        " ('sklearn' takes whatever can be pickled)"
    )


def of_path(path: str) -> Format | None:
    """The format that files with such a name have."""
    for one in FORMATS:
        if path.endswith(one.suffix) or (one.suffix == ".pt" and path.endswith(".pth")):
            return one
    return None


def choose(path: str, framework: str | None, *objects: Any) -> Format:
    """What was said, else what the file's name says, else the objects. Raises ValueError,
    TypeError."""
    if framework is not None:
        return named(framework)
    return of_path(path) or of_objects(*objects)


def _of_type(kind: type) -> Format | None:
    # The nearest base counts: XGBoost's and LightGBM's classifiers are scikit-learn's too.
    for base in kind.__mro__:
        package = (base.__module__ or "").partition(".")[0]
        for one in FORMATS:
            if package in one.packages:
                return one
    return None


def _known() -> str:
    return ", ".join(one.framework for one in FORMATS)


def checkpoint_name(epoch: int, step: int) -> str:
    """The checkpoint's id."""
    return f"ckpt_{epoch}_{step}"


def parse_name(filename: str) -> tuple[int, int]:
    """Epoch and step in a file's name; (0, 0) where it has none."""
    kind, _, rest = os.path.basename(filename).partition("_")
    epoch, _, step = rest.partition("_")
    step = step.partition(".")[0]
    if kind == "ckpt" and epoch.isdecimal() and step.isdecimal():
        return int(epoch), int(step)
    return 0, 0
