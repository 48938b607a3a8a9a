"""The Cumulus client: run a Python function on a pool of GPU workers as if it were local.

::

    from cumulus_client import CumulusClient

    def train(steps):
        ...

    with CumulusClient("http://127.0.0.1:50051") as client:
        print(client.run(train, gpu_memory=0.25, steps=100))
"""

from cumulus_client.async_client import AsyncCumulusClient
from cumulus_client.async_job import AsyncCumulusJob
from cumulus_client.client import CumulusClient
from cumulus_client.decorators import (
    AsyncRemoteFunction,
    RemoteCoroutineFunction,
    RemoteFunction,
    async_remote,
    create_remote_function,
    gpu,
    remote,
)
from cumulus_client.exceptions import (
    ClientTimeout,
    Conflict,
    ConnectionFailed,
    ConnectionLost,
    CumulusError,
    InsufficientResources,
    InvalidArgument,
    JobCancelled,
    JobFailed,
    JobTimeout,
    NotAuthenticated,
    NotAuthorized,
    NotEnded,
    NotFound,
    NoWorkersAvailable,
    PackagingError,
    RemoteTraceback,
    ResultError,
    ServerError,
    TooLarge,
    TooMany,
    Unavailable,
)
from cumulus_client.job import CumulusJob
from cumulus_client.packaging import CodePackager

__all__ = [
    "AsyncCumulusClient",
    "AsyncCumulusJob",
    "AsyncRemoteFunction",
    "ClientTimeout",
    "CodePackager",
    "Conflict",
    "ConnectionFailed",
    "ConnectionLost",
    "CumulusClient",
    "CumulusError",
    "CumulusJob",
    "InsufficientResources",
    "InvalidArgument",
    "JobCancelled",
    "JobFailed",
    "JobTimeout",
    "NoWorkersAvailable",
    "NotAuthenticated",
    "NotAuthorized",
    "NotEnded",
    "NotFound",
    "PackagingError",
    "RemoteCoroutineFunction",
    "RemoteFunction",
    "RemoteTraceback",
    "ResultError",
    "ServerError",
    "TooLarge",
    "TooMany",
    "Unavailable",
    "async_remote",
    "create_remote_function",
    "gpu",
    "remote",
]
