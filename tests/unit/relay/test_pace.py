"""How large the pieces are that a follower gets: large only for who takes them quickly."""

from cumulusd.following import BULK_CHUNK_BYTES, FOLLOW_CHUNK_BYTES, Pace

MIB = 1 << 20


class Reader:
    """Takes all that it is given, so many bytes a second."""

    def __init__(self, bytes_per_s: float) -> None:
        self.bytes_per_s = bytes_per_s
        self.now = 100.0
        self.pace = Pace(self.now)

    def take(self, total_bytes: int) -> list[int]:
        """The sizes it was given."""
        given: list[int] = []
        while sum(given) < total_bytes:
            began, size = self.now, self.pace.chunk_bytes
            self.now += size / self.bytes_per_s
            self.pace.took(size, began, self.now)
            given.append(size)
        return given


def test_a_quick_reader_gets_large_pieces_after_some_small_ones() -> None:
    given = Reader(50 * MIB).take(20 * MIB)
    small = 4 * MIB // FOLLOW_CHUNK_BYTES
    assert given[:small] == [FOLLOW_CHUNK_BYTES] * small
    assert set(given[small:]) == {BULK_CHUNK_BYTES}


def test_a_slow_reader_never_does() -> None:
    assert set(Reader(3 * MIB).take(20 * MIB)) == {FOLLOW_CHUNK_BYTES}


def test_a_reader_that_becomes_slow_gets_small_ones_from_the_next_on() -> None:
    reader = Reader(50 * MIB)
    reader.take(8 * MIB)
    reader.bytes_per_s = 0.5 * MIB
    assert reader.take(MIB)[:2] == [BULK_CHUNK_BYTES, FOLLOW_CHUNK_BYTES]
    reader.bytes_per_s = 50 * MIB
    reader.take(8 * MIB)
    assert reader.pace.chunk_bytes == BULK_CHUNK_BYTES


def test_one_that_has_little_to_read_gets_small_ones() -> None:
    pace = Pace(0.0)
    for second in range(1000):
        pace.took(FOLLOW_CHUNK_BYTES, float(second), float(second))
        assert pace.chunk_bytes == FOLLOW_CHUNK_BYTES
