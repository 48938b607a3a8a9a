"""Tells frameworks the job's share of the GPU's memory, as the code imports them. Advice only.

On its own, like `bootstrap.py`, and by the job's own Python (3.9 or newer). No framework is
imported that the code doesn't import, and no failure of this is the job's: it says one line on
stderr. JAX and CuPy read theirs from the environment, which the grant has set
(XLA_PYTHON_CLIENT_MEM_FRACTION, CUPY_GPU_MEMORY_LIMIT); PyTorch and TensorFlow have to be called.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

MIB = 1 << 20


def install(limit_bytes: int) -> None:
    """From now on frameworks are told `limit_bytes`; those that are there already, at once."""
    knobs = {
        name: Knob(called, tell, limit_bytes)
        for name, called, tell in (
            ("torch", "PyTorch", tell_torch),
            ("tensorflow", "TensorFlow", tell_tensorflow),
        )
    }
    for name, knob in knobs.items():
        if name in sys.modules:
            knob(sys.modules[name])
    sys.meta_path.insert(0, Finder(knobs))


class Knob:
    """One framework's limit; calling it with the module sets it, and never raises."""

    def __init__(
        self,
        called: str,
        tell: Callable[[Any, int, Callable[[Exception], None]], None],
        limit_bytes: int,
    ) -> None:
        self._called = called
        self._tell = tell
        self._limit_bytes = limit_bytes

    def __call__(self, module: Any) -> None:
        try:
            self._tell(module, self._limit_bytes, self._failed)
        except Exception as error:
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        first = " ".join(str(error).split())[:300]
        try:
            sys.stderr.write(
                f"cumulus: {self._called} couldn't be told the job's share of the GPU, "
                f"{self._limit_bytes // MIB} MiB: {type(error).__name__}: {first}\n"
            )
        except (AttributeError, OSError, ValueError):
            return  # the code has closed or replaced its stderr


def tell_torch(torch: Any, limit_bytes: int, failed: Callable[[Exception], None]) -> None:
    """When the code first uses CUDA, not before: a context costs memory, and none survives a fork.

    torch/cuda/__init__.py: `_lazy_call` queues what is to be done when CUDA is initialised;
    torch/cuda/memory.py: `set_per_process_memory_fraction` takes a fraction of the device's total.
    """

    def limit() -> None:
        try:
            total = torch.cuda.get_device_properties(0).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, limit_bytes / total), 0)
        except Exception as error:
            failed(error)

    torch.cuda._lazy_call(limit)


def tell_tensorflow(tensorflow: Any, limit_bytes: int, failed: Callable[[Exception], None]) -> None:
    """A logical device of that size, before the GPU is used.

    TensorFlow refuses memory growth for such a device. Growth is on by TF_FORCE_GPU_ALLOW_GROWTH,
    so code that asks for it gets what it wants all the same.
    """
    config = tensorflow.config
    devices = config.list_physical_devices("GPU")
    if not devices:
        return
    grow = config.experimental.set_memory_growth

    def set_memory_growth(device: Any, enable: bool) -> Any:
        try:
            return grow(device, enable)
        except ValueError as error:
            if "virtual devices" not in str(error):
                raise
            return None

    limit = config.LogicalDeviceConfiguration(memory_limit=max(1, limit_bytes // MIB))
    config.set_logical_device_configuration(devices[0], [limit])
    config.experimental.set_memory_growth = set_memory_growth


class Finder:
    """First on `sys.meta_path`: finds as all the others do, and has a knob set after the import."""

    def __init__(self, knobs: Mapping[str, Callable[[Any], None]]) -> None:
        self._knobs = knobs

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """The spec of a framework; None for everything else."""
        if path is not None or name not in self._knobs:
            return None
        for finder in list(sys.meta_path):
            find = getattr(finder, "find_spec", None)
            if finder is self or find is None:
                continue
            spec = find(name, path, target)
            if spec is not None:
                if hasattr(spec.loader, "exec_module"):
                    spec.loader = Loader(spec.loader, self._knobs[name])
                return spec
        return None


class Loader:
    """Loads as `real` does, which takes its place before the module's code runs."""

    def __init__(self, real: Any, knob: Callable[[Any], None]) -> None:
        self._real = real
        self._knob = knob

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def create_module(self, spec: Any) -> Any:
        """As `real` does."""
        return self._real.create_module(spec)

    def exec_module(self, module: Any) -> None:
        """As `real` does, then the knob."""
        module.__spec__.loader = module.__loader__ = self._real
        self._real.exec_module(module)
        self._knob(sys.modules.get(module.__name__, module))
