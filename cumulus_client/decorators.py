"""Functions that run remotely when they are called."""

import functools
import inspect
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Callable,
    Coroutine,
    Generator,
    Iterable,
    Mapping,
    Sequence,
)
from typing import Any, Generic, Literal, ParamSpec, Protocol, Self, TypeVar, Unpack, overload

from cumulus_client._map_window import MAX_IN_FLIGHT
from cumulus_client._options import (
    CallOptions,
    CommonOptions,
    MoreOptions,
    Options,
    Seconds,
    bind,
    checked_timeout,
    parted,
)
from cumulus_client._raising import raised_here, raised_here_async
from cumulus_client.async_client import AsyncCumulusClient
from cumulus_client.async_job import AsyncCumulusJob
from cumulus_client.client import CumulusClient
from cumulus_client.job import CumulusJob

_P = ParamSpec("_P")
_T = TypeVar("_T")
_Func = Callable[_P, _T]
_CoroutineFunc = Callable[_P, Coroutine[Any, Any, _T]]


class _Remote(Generic[_P, _T]):
    """A function with the options that its jobs get. `func` is the plain one, for calling it here.

    All of a call's arguments go to the function, whatever they are named. Inside a job it is the
    plain function: calling it there calls it there.
    """

    __cumulus_remote__ = True
    _clients: tuple[type, ...]

    def __init__(
        self,
        client: Any,
        func: Callable[..., Any],
        gpu_memory: float = 0.5,
        duration: Seconds = 3600,
        requirements: Sequence[str] | None = None,
        timeout: Seconds | None = None,
        **options: Unpack[MoreOptions],
    ) -> None:
        """Options as of `CumulusClient.run`. Raises TypeError, ValueError."""
        _check_client(client, "@remote", self._clients)
        if not callable(func):
            raise TypeError(f"a function is needed, not {type(func).__name__}")
        wrapper: Any = self
        functools.update_wrapper(wrapper, func)
        self.client = client
        self.func = func
        self.timeout = checked_timeout("timeout", timeout)
        self._options: Options = {
            "gpu_memory": gpu_memory,
            "duration": duration,
            "requirements": requirements,
            **options,
        }
        self._spec, self._files = parted(self._options)

    def with_options(self, **options: Unpack[CallOptions]) -> Self:
        """The same function with these options changed; this one stays as it is."""
        merged: Any = {"timeout": self.timeout, **self._options, **options}
        return type(self)(self.client, self.func, **merged)

    def _bound(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
        bind("@remote", self.func, args, kwargs)
        return self.func, args, kwargs, self._spec, self.timeout, self._files

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {getattr(self.func, '__qualname__', self.func)!r}>"


class RemoteFunction(_Remote[_P, _T]):
    """A function that a call runs on a worker. `func` is the plain one, for calling it here.

    All of a call's arguments go to the function, whatever they are named. Inside a job it is the
    plain function: calling it there calls it there.
    """

    _clients = (CumulusClient,)
    client: CumulusClient

    @raised_here
    def __call__(self, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Runs it on a worker; its value. Raises as `CumulusClient.run`."""
        value: _T = self.client._run_call(*self._bound(args, kwargs))
        return value

    @raised_here
    def submit(self, *args: _P.args, **kwargs: _P.kwargs) -> CumulusJob:
        """Submits it; the job."""
        return self.client._submit_call(*self._bound(args, kwargs))

    @raised_here
    def async_call(self, *args: _P.args, **kwargs: _P.kwargs) -> CumulusJob:
        """The old SDK's name of `submit`."""
        return self.client._submit_call(*self._bound(args, kwargs))

    @overload
    def map(
        self,
        *iterables: Iterable[Any],
        kwargs: Mapping[str, Any] | None = None,
        timeout: Seconds | None = None,
        max_in_flight: int = MAX_IN_FLIGHT,
        ordered: Literal[True] = True,
        return_exceptions: Literal[False] = False,
    ) -> Generator[_T, None, None]: ...
    @overload
    def map(
        self,
        *iterables: Iterable[Any],
        kwargs: Mapping[str, Any] | None = None,
        timeout: Seconds | None = None,
        max_in_flight: int = MAX_IN_FLIGHT,
        ordered: bool = True,
        return_exceptions: bool = False,
    ) -> Generator[Any, None, None]: ...
    def map(
        self,
        *iterables: Iterable[Any],
        kwargs: Mapping[str, Any] | None = None,
        timeout: Seconds | None = None,
        max_in_flight: int = MAX_IN_FLIGHT,
        ordered: bool = True,
        return_exceptions: bool = False,
    ) -> Generator[Any, None, None]:
        """As `CumulusClient.map`, with this function's options but its `timeout`, which is that of
        one call."""
        return self.client.map(
            self.func,
            *iterables,
            kwargs=kwargs,
            timeout=timeout,
            max_in_flight=max_in_flight,
            ordered=ordered,
            return_exceptions=return_exceptions,
            **self._options,
        )


class AsyncRemoteFunction(RemoteFunction[_P, _T]):
    """A RemoteFunction whose call gives the job instead of waiting for its value."""

    def __call__(self, *args: _P.args, **kwargs: _P.kwargs) -> CumulusJob:  # type: ignore[override]
        """Submits it; the job."""
        return self.submit(*args, **kwargs)


class RemoteCoroutineFunction(_Remote[_P, _T]):
    """`RemoteFunction` of an AsyncCumulusClient: its calls are awaited."""

    _clients = (AsyncCumulusClient,)
    client: AsyncCumulusClient

    @raised_here_async
    async def __call__(self, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Runs it on a worker; its value. Raises as `CumulusClient.run`."""
        value: _T = await self.client._run_call(*self._bound(args, kwargs))
        return value

    @raised_here_async
    async def submit(self, *args: _P.args, **kwargs: _P.kwargs) -> AsyncCumulusJob:
        """Submits it; the job."""
        return await self.client._submit_call(*self._bound(args, kwargs))

    @raised_here_async
    async def async_call(self, *args: _P.args, **kwargs: _P.kwargs) -> AsyncCumulusJob:
        """The same as `submit`."""
        return await self.client._submit_call(*self._bound(args, kwargs))

    @overload
    def map(
        self,
        *iterables: Iterable[Any] | AsyncIterable[Any],
        kwargs: Mapping[str, Any] | None = None,
        timeout: Seconds | None = None,
        max_in_flight: int = MAX_IN_FLIGHT,
        ordered: Literal[True] = True,
        return_exceptions: Literal[False] = False,
    ) -> AsyncGenerator[_T, None]: ...
    @overload
    def map(
        self,
        *iterables: Iterable[Any] | AsyncIterable[Any],
        kwargs: Mapping[str, Any] | None = None,
        timeout: Seconds | None = None,
        max_in_flight: int = MAX_IN_FLIGHT,
        ordered: bool = True,
        return_exceptions: bool = False,
    ) -> AsyncGenerator[Any, None]: ...
    def map(
        self,
        *iterables: Iterable[Any] | AsyncIterable[Any],
        kwargs: Mapping[str, Any] | None = None,
        timeout: Seconds | None = None,
        max_in_flight: int = MAX_IN_FLIGHT,
        ordered: bool = True,
        return_exceptions: bool = False,
    ) -> AsyncGenerator[Any, None]:
        """As `AsyncCumulusClient.map`, with this function's options but its `timeout`, which is
        that of one call."""
        return self.client.map(
            self.func,
            *iterables,
            kwargs=kwargs,
            timeout=timeout,
            max_in_flight=max_in_flight,
            ordered=ordered,
            return_exceptions=return_exceptions,
            **self._options,
        )


# --- decorators -------------------------------------------------------------------------------


class _MakesRemote(Protocol):
    @overload
    def __call__(self, func: _CoroutineFunc[_P, _T], /) -> RemoteFunction[_P, _T]: ...
    @overload
    def __call__(self, func: _Func[_P, _T], /) -> RemoteFunction[_P, _T]: ...


class _MakesRemoteCoroutine(Protocol):
    @overload
    def __call__(self, func: _CoroutineFunc[_P, _T], /) -> RemoteCoroutineFunction[_P, _T]: ...
    @overload
    def __call__(self, func: _Func[_P, _T], /) -> RemoteCoroutineFunction[_P, _T]: ...


class _MakesAsyncRemote(Protocol):
    def __call__(self, func: _Func[_P, _T], /) -> AsyncRemoteFunction[_P, _T]: ...


def _check_client(client: Any, decorator: str, wanted: tuple[type, ...]) -> None:
    if isinstance(client, wanted):
        return
    if inspect.isfunction(client) or isinstance(client, _Remote):
        name = getattr(client, "__name__", "it")
        raise TypeError(
            f"{decorator} needs the client that is to run {name!r}: write {decorator}(client) "
            "above it, with client = CumulusClient(...)"
        )
    if isinstance(client, AsyncCumulusClient):
        raise TypeError(
            f"{decorator} needs a CumulusClient; with an AsyncCumulusClient write @remote(client), "
            "whose calls are awaited, and `await function.submit(...)` for the job"
        )
    told = " or ".join(each.__name__ for each in wanted)
    raise TypeError(f"{decorator} needs a {told}, not {type(client).__name__} {client!r}")


def _class_for(client: Any, decorator: str) -> type[Any]:
    _check_client(client, decorator, (CumulusClient, AsyncCumulusClient))
    return RemoteFunction if isinstance(client, CumulusClient) else RemoteCoroutineFunction


@overload
def remote(
    client: CumulusClient,
    gpu_memory: float = 0.5,
    duration: Seconds = 3600,
    requirements: Sequence[str] | None = None,
    timeout: Seconds | None = None,
    **options: Unpack[MoreOptions],
) -> _MakesRemote: ...
@overload
def remote(
    client: AsyncCumulusClient,
    gpu_memory: float = 0.5,
    duration: Seconds = 3600,
    requirements: Sequence[str] | None = None,
    timeout: Seconds | None = None,
    **options: Unpack[MoreOptions],
) -> _MakesRemoteCoroutine: ...
def remote(
    client: CumulusClient | AsyncCumulusClient,
    gpu_memory: float = 0.5,
    duration: Seconds = 3600,
    requirements: Sequence[str] | None = None,
    timeout: Seconds | None = None,
    **options: Unpack[MoreOptions],
) -> Any:
    """`@remote(client)`: calling the function runs it on a worker and returns its value, to be
    awaited with an AsyncCumulusClient. `options`: as of `CumulusClient.run`."""
    make = _class_for(client, "@remote")
    return lambda func: make(client, func, gpu_memory, duration, requirements, timeout, **options)


@overload
def gpu(
    client: CumulusClient,
    memory: float = 0.5,
    duration: Seconds = 3600,
    requirements: Sequence[str] | None = None,
    timeout: Seconds | None = None,
    **options: Unpack[CommonOptions],
) -> _MakesRemote: ...
@overload
def gpu(
    client: AsyncCumulusClient,
    memory: float = 0.5,
    duration: Seconds = 3600,
    requirements: Sequence[str] | None = None,
    timeout: Seconds | None = None,
    **options: Unpack[CommonOptions],
) -> _MakesRemoteCoroutine: ...
def gpu(
    client: CumulusClient | AsyncCumulusClient,
    memory: float = 0.5,
    duration: Seconds = 3600,
    requirements: Sequence[str] | None = None,
    timeout: Seconds | None = None,
    **options: Unpack[CommonOptions],
) -> Any:
    """`@gpu(client, memory=0.25)`: `remote` with the share of the GPU named `memory`. (RAM, which
    `remote` calls so, is asked for with `remote`.)"""
    make = _class_for(client, "@gpu")
    return lambda func: make(client, func, memory, duration, requirements, timeout, **options)


def async_remote(
    client: CumulusClient,
    gpu_memory: float = 0.5,
    duration: Seconds = 3600,
    requirements: Sequence[str] | None = None,
    timeout: Seconds | None = None,
    **options: Unpack[MoreOptions],
) -> _MakesAsyncRemote:
    """`@async_remote(client)`: calling the function submits it and returns the CumulusJob. (With
    an AsyncCumulusClient, `@remote(client)` and `await function.submit(...)` do that.)"""
    _check_client(client, "@async_remote", (CumulusClient,))
    make: Any = AsyncRemoteFunction
    made: _MakesAsyncRemote = lambda func: make(  # noqa: E731
        client, func, gpu_memory, duration, requirements, timeout, **options
    )
    return made


@overload
def create_remote_function(
    client: CumulusClient,
    func: _Func[_P, _T],
    gpu_memory: float = 0.5,
    duration: Seconds = 3600,
    requirements: Sequence[str] | None = None,
    timeout: Seconds | None = None,
    **options: Unpack[MoreOptions],
) -> RemoteFunction[_P, _T]: ...
@overload
def create_remote_function(
    client: AsyncCumulusClient,
    func: _Func[_P, _T],
    gpu_memory: float = 0.5,
    duration: Seconds = 3600,
    requirements: Sequence[str] | None = None,
    timeout: Seconds | None = None,
    **options: Unpack[MoreOptions],
) -> RemoteCoroutineFunction[_P, _T]: ...
def create_remote_function(
    client: CumulusClient | AsyncCumulusClient,
    func: Callable[..., Any],
    gpu_memory: float = 0.5,
    duration: Seconds = 3600,
    requirements: Sequence[str] | None = None,
    timeout: Seconds | None = None,
    **options: Unpack[MoreOptions],
) -> Any:
    """What `remote` makes, without decorator syntax."""
    make = _class_for(client, "create_remote_function")
    return make(client, func, gpu_memory, duration, requirements, timeout, **options)
