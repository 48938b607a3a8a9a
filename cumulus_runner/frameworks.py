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
    from collections.abc import Callable
    from typing import Any

MIB = 1 << 20


def install(limit_bytes: int, watch: Callable[[str, Callable[[Any], None]], None]) -> None:
    """From now on frameworks are told `limit_bytes`; those that are there already, at once.
    `watch`: that of `inside/runtime/_imports.py`."""
    watch("torch", Knob("PyTorch", tell_torch, limit_bytes))
    watch("tensorflow", Knob("TensorFlow", tell_tensorflow, limit_bytes))


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
