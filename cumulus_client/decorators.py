"""Functions that run remotely when they are called."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from cumulus_client._options import bind, checked_timeout, make_spec
from cumulus_client._raising import raised_here
from cumulus_client.client import CumulusClient
from cumulus_client.job import CumulusJob


class RemoteFunction:
    """A function that a call runs on a worker. `func` is the plain one, for calling it here.

    All of a call's arguments go to the function, whatever they are named. Inside a job it is the
    plain function: calling it there calls it there.
    """

    __cumulus_remote__ = True

    def __init__(
        self,
        client: CumulusClient,
        func: Callable[..., Any],
        gpu_memory: float = 0.5,
        duration: float = 3600,
        requirements: Sequence[str] | None = None,
        timeout: float | None = None,
    ) -> None:
        """As of `CumulusClient.run`."""
        _check_client(client, "@remote")
        if not callable(func):
            raise TypeError(f"a function is needed, not {type(func).__name__}")
        functools.update_wrapper(self, func)
        self.client = client
        self.func = func
        self.timeout = checked_timeout("timeout", timeout)
        self._spec = make_spec(gpu_memory=gpu_memory, duration=duration, requirements=requirements)

    @raised_here
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs it on a worker; its value. Raises as `CumulusClient.run`."""
        bind("@remote", self.func, args, kwargs)
        return self.client._run_call(self.func, args, kwargs, self._spec, self.timeout)

    @raised_here
    def async_call(self, *args: Any, **kwargs: Any) -> CumulusJob:
        """Submits it; the job."""
        bind("@remote", self.func, args, kwargs)
        return self.client._submit_call(self.func, args, kwargs, self._spec, self.timeout)

    def __repr__(self) -> str:
        return f"<RemoteFunction {getattr(self.func, '__qualname__', self.func)!r}>"


class AsyncRemoteFunction(RemoteFunction):
    """A RemoteFunction whose call gives the job instead of waiting for its value."""

    def __call__(self, *args: Any, **kwargs: Any) -> CumulusJob:
        """Submits it; the job."""
        return self.async_call(*args, **kwargs)


def _check_client(client: Any, decorator: str) -> None:
    if isinstance(client, CumulusClient):
        return
    if inspect.isfunction(client) or isinstance(client, RemoteFunction):
        name = getattr(client, "__name__", "it")
        raise TypeError(
            f"{decorator} needs the client that is to run {name!r}: write {decorator}(client) "
            "above it, with client = CumulusClient(...)"
        )
    raise TypeError(f"{decorator} needs a CumulusClient, not {type(client).__name__} {client!r}")


def remote(
    client: CumulusClient,
    gpu_memory: float = 0.5,
    duration: float = 3600,
    requirements: Sequence[str] | None = None,
    timeout: float | None = None,
) -> Callable[[Callable[..., Any]], RemoteFunction]:
    """`@remote(client)`: calling the function runs it on a worker and returns its value."""
    _check_client(client, "@remote")

    def decorate(func: Callable[..., Any]) -> RemoteFunction:
        return RemoteFunction(client, func, gpu_memory, duration, requirements, timeout)

    return decorate


def gpu(
    client: CumulusClient,
    memory: float = 0.5,
    duration: float = 3600,
    requirements: Sequence[str] | None = None,
) -> Callable[[Callable[..., Any]], RemoteFunction]:
    """`@gpu(client, memory=0.25)`: `remote` with the share named `memory`."""
    _check_client(client, "@gpu")
    return remote(client, memory, duration, requirements)


def async_remote(
    client: CumulusClient,
    gpu_memory: float = 0.5,
    duration: float = 3600,
    requirements: Sequence[str] | None = None,
) -> Callable[[Callable[..., Any]], AsyncRemoteFunction]:
    """`@async_remote(client)`: calling the function submits it and returns the CumulusJob."""
    _check_client(client, "@async_remote")

    def decorate(func: Callable[..., Any]) -> AsyncRemoteFunction:
        return AsyncRemoteFunction(client, func, gpu_memory, duration, requirements)

    return decorate


def create_remote_function(
    client: CumulusClient,
    func: Callable[..., Any],
    gpu_memory: float = 0.5,
    duration: float = 3600,
    requirements: Sequence[str] | None = None,
    timeout: float | None = None,
) -> RemoteFunction:
    """A RemoteFunction without decorator syntax."""
    return RemoteFunction(client, func, gpu_memory, duration, requirements, timeout)
