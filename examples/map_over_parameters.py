"""Tries many parameters at a time and keeps the best.

    python examples/map_over_parameters.py [SERVER_URL]

At most four jobs are under way. Each takes a tenth of a device, or waits until one is free; results
come in the order of the parameters, or as soon as they are there.
"""

import sys

from cumulus_client import CumulusClient, CumulusError


def loss(rate: float, momentum: float = 0.0) -> float:
    """Stands for a training run: how far off it ends with these parameters."""
    if rate <= 0:
        raise ValueError(f"a learning rate of {rate}")
    position, speed = 10.0, 0.0
    for _ in range(50):
        speed = momentum * speed - rate * 2 * position
        position += speed
    print(f"rate {rate}: {position:.3g}")
    return abs(position)


def main(url: str | None) -> None:
    """Maps in order, then as they come, then with one that fails among them."""
    rates = [0.01, 0.05, 0.1, 0.5]
    small = {"gpu_memory": 0.1, "duration": "2m"}
    with CumulusClient(url) as client:
        losses = list(client.map(loss, rates, max_in_flight=4, **small))
        best, rate = min(zip(losses, rates, strict=True))
        print(f"best: rate {rate} with a loss of {best:.3g}")

        with_momentum = client.map(loss, rates, kwargs={"momentum": 0.5}, ordered=False, **small)
        for index, value in with_momentum:
            print(f"with momentum, rate {rates[index]}: {value:.3g}")

        for value in client.map(loss, [0.1, -1.0], return_exceptions=True, **small):
            if isinstance(value, CumulusError):
                print(f"failed: {str(value).splitlines()[0]}")
            else:
                print(f"went well: {value:.3g}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
