"""Environment variables that could loosen what holds a job to its share of a device."""

_PREFIXES = ("CUDA_", "NVIDIA_", "OPENCL_", "OCL_", "LD_")
#: Those beneath that change how code runs, but neither what it sees nor how much it gets.
_HARMLESS = frozenset(
    {
        "CUDA_CACHE_DISABLE",
        "CUDA_CACHE_MAXSIZE",
        "CUDA_CACHE_PATH",
        "CUDA_DEVICE_MAX_CONNECTIONS",
        "CUDA_FORCE_PTX_JIT",
        "CUDA_HOME",
        "CUDA_LAUNCH_BLOCKING",
        "CUDA_MODULE_LOADING",
        "CUDA_PATH",
        "NVIDIA_TF32_OVERRIDE",
    }
)


def is_protected(name: str) -> bool:
    """A job may not set it; only the grant and the operator's configuration do."""
    return name.startswith(_PREFIXES) and name not in _HARMLESS
