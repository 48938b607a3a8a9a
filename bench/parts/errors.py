"""What goes wrong in measuring."""


class BenchError(Exception):
    """The measurement is void; the message says why."""
