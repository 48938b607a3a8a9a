"""Relays for the client's tests."""

from collections.abc import Callable, Iterator

import pytest

from tests.unit.client.client_harness import Relay


@pytest.fixture
def start_relay() -> Iterator[Callable[..., Relay]]:
    started: list[Relay] = []

    def start(*arguments: str) -> Relay:
        started.append(Relay(*arguments))
        return started[-1]

    yield start
    for one in started:
        one.close()


@pytest.fixture
def relay(start_relay: Callable[..., Relay]) -> Relay:
    return start_relay()
