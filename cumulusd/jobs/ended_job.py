"""A job that has ended, as it is kept in memory and on disk: a head by which it is found, and its
record, packed. A history of a hundred thousand costs neither a gigabyte nor a start of minutes.

On disk: a byte for the format, CRC-32 of all that follows, the head's length, the head (a JSON
array, see `EndedJob.stored`), the record's JSON text as a zlib stream. The checksum is looked at
when a store is opened; so what isn't decoded then is known to be what was written.
"""

import json
import struct
import sys
import zlib
from typing import Any, NamedTuple

import msgspec

from cumulus_wire.states import JobState
from cumulusd.jobs import codec, versions
from cumulusd.jobs.codec import RecordNewer, RecordUnreadable
from cumulusd.jobs.model import JobRecord, Phase

#: What every record says, for zlib. Of format 1: another one needs another format.
_DICTIONARY = (
    b'{"version":5,"job_id":"job_","owner":"","spec":{"package_sha256":"","package_size_bytes":,'
    b'"gpu_memory":1.0,"duration_s":3600.0,"requirements":[],"setup_timeout_s":600.0,'
    b'"queue_timeout_s":null,"priority":0,"name":null,"environment":{},"cpu_cores":null,'
    b'"memory_bytes":null,"python_version":"3.1","idempotency_key":null,"retries":0,'
    b'"needs_python":"3.1","secret_names":[]},"phase":"ended","created_at":17,"attempt":1,'
    b'"attempts":[{"attempt":1,"reason":"worker_lost","message":"","node_id":"","hostname":"",'
    b'"started_at":17,"ended_at":17}],"journal_start":0,"queued_at":null,"wait":null,'
    b'"placement":{"node_id":"","hostname":"","device_id":""},"grant":{"partition_id":"",'
    b'"device_id":"","device_name":"","device_index":0,"units":10000,"gpu_memory_bytes":,'
    b'"tier":"advisory","tier_note":"","folder":"/var/lib/cumulus/jobs/job_","environment":{},'
    b'"mounts":[["/var/lib/cumulus/","/var/lib/cumulus/",true]],"lifetime_s":},'
    b'"fate":{"drained":false,"down":false},"stop_reason":null,"setup_at":17,"started_at":17,'
    b'"ended_at":17,"end":{"state":"failed","reason":"user_exception","message":"",'
    b'"exit_code":1,"signal":null,"error":null,"result":{"encoding":"pickle","size_bytes":,'
    b'"sha256":""},"hint":null,"log_tail":"","outputs":[{"name":"","size_bytes":,"sha256":""}],'
    b'"outputs_note":null},"pause_requested":false,"pauses":0,"checkpoints":[],'
    b'"pinned_node":null,"ran_s":0.0,"paused_at":null,"moments":['
    b'{"stage":"queued","at":17,"attempt":1},{"stage":"preparing","at":17,"attempt":1},'
    b'{"stage":"launching","at":17,"attempt":1},{"stage":"setup","at":17,"attempt":1},'
    b'{"stage":"running","at":17,"attempt":1},{"stage":"ending","at":17,"attempt":1},'
    b'{"stage":"ended","at":17,"attempt":1}]}"state":"completed","reason":null,"exit_code":0,'
    b'"result":null,"log_tail":null,"outputs":[],"outputs_note":null}'
)
_FORMAT = 1
_FORMAT_BYTE = bytes([_FORMAT])
_LEVEL = 3
_CRC = struct.Struct("<I")
_LENGTH = struct.Struct("<I")
_CRC_AND_LENGTH = struct.Struct("<II")
_CHECKED_AT = 1 + _CRC.size
_HEAD_AT = 1 + _CRC_AND_LENGTH.size
_HEAD_NOW = b"[%d," % versions.VERSION


class EndedJob(NamedTuple):
    """Of a record in phase `ended`. A tuple: a start makes a hundred thousand of them."""

    job_id: str
    owner: str
    name: str | None
    state: JobState
    created_at: float
    ended_at: float | None
    idempotency_key: str | None
    packed: bytes  #: its text, see `_unpacked`

    @classmethod
    def of(cls, record: JobRecord, text: str) -> "EndedJob":
        """`text`: the record's. `is_kept_packed(record)` must hold."""
        assert record.end is not None
        return cls(
            job_id=record.job_id,
            owner=sys.intern(record.owner),
            name=record.spec.name,
            state=record.end.state,
            created_at=record.created_at,
            ended_at=record.ended_at,
            idempotency_key=record.spec.idempotency_key,
            packed=_packed(text),
        )

    @property
    def phase(self) -> Phase:
        """As the record's."""
        return Phase.ENDED

    def record(self) -> JobRecord:
        """The whole of it again."""
        return codec.loads(_unpacked(self.packed))

    def stored(self) -> bytes:
        """As it is on disk."""
        values = [versions.VERSION, *self[:3], self.state.value, *self[4:7]]
        head = json.dumps(values, separators=(",", ":"), allow_nan=False).encode()
        body = _LENGTH.pack(len(head)) + head + self.packed
        return _FORMAT_BYTE + _CRC.pack(zlib.crc32(body)) + body


def is_kept_packed(record: JobRecord) -> bool:
    """It has ended, and nothing of it is left on a worker."""
    return record.phase is Phase.ENDED and record.end is not None


def stored(record: JobRecord, text: str) -> str | bytes:
    """The record whose text that is, as it is on disk."""
    if not is_kept_packed(record):
        return text
    return EndedJob.of(record, text).stored()


def load(value: str | bytes) -> JobRecord | EndedJob:
    """What `stored` gave, of this version or an earlier one. Raises RecordUnreadable."""
    if isinstance(value, str):
        record = codec.loads(value)
        return EndedJob.of(record, value) if is_kept_packed(record) else record
    version, head, packed = _opened(value)
    if version != versions.VERSION:
        record = codec.loads(_unpacked(packed))
        return EndedJob.of(record, codec.dumps(record))
    job_id, owner, name, state, created_at, ended_at, key = head
    return EndedJob(
        job_id, sys.intern(owner), name, _STATES[state], created_at, ended_at, key, packed
    )


def is_outdated(value: str | bytes) -> bool:
    """Whether what `load` took isn't as `stored` gives it now."""
    return isinstance(value, bytes) and not value.startswith(_HEAD_NOW, _HEAD_AT)


def load_record(value: bytes) -> JobRecord:
    """The whole record, of a column's bytes, text or packed. Raises RecordUnreadable."""
    if value[:1] == _FORMAT_BYTE:
        return codec.loads(_unpacked(_opened(value)[2]))
    try:
        return codec.loads(value.decode())
    except UnicodeDecodeError as error:
        raise RecordUnreadable(str(error)) from None


_STATES = {state.value: state for state in JobState}
_decode = msgspec.json.Decoder().decode


def _read_head(text: bytes) -> Any:
    try:
        return _decode(text)
    except ValueError:  # a name may hold what is no text: json takes it
        return json.loads(text)


def _opened(value: bytes) -> tuple[int, list[Any], bytes]:
    """(the record's version, the head's other values, the packed text) of a whole one."""
    if value[:1] != _FORMAT_BYTE:
        raise RecordUnreadable(
            f"an ended job's record begins with {value[:1]!r}, which is no format"
        )
    if len(value) < _HEAD_AT:
        raise RecordUnreadable("an ended job's record is cut short")
    crc, length = _CRC_AND_LENGTH.unpack_from(value, 1)
    if zlib.crc32(value[_CHECKED_AT:]) != crc:
        raise RecordUnreadable(
            "an ended job's record isn't what was written: its checksum is wrong"
        )
    try:
        version, *head = _read_head(value[_HEAD_AT : _HEAD_AT + length])
    except (ValueError, TypeError) as error:
        raise RecordUnreadable(f"an ended job's record has no head: {error}") from None
    if version > versions.VERSION:
        raise RecordNewer(
            f"a job record has version {version}, this daemon reads versions 1 to "
            f"{versions.VERSION}: it was written by a newer version of cumulusd"
        )
    return version, head, value[_HEAD_AT + length :]


def _packed(text: str) -> bytes:
    packer = zlib.compressobj(_LEVEL, zdict=_DICTIONARY)
    return packer.compress(text.encode()) + packer.flush()


def _unpacked(packed: bytes) -> str:
    unpacker = zlib.decompressobj(zdict=_DICTIONARY)
    try:
        text = unpacker.decompress(packed)
    except zlib.error as error:
        raise RecordUnreadable(f"an ended job's record can't be unpacked: {error}") from None
    if not unpacker.eof:
        raise RecordUnreadable("an ended job's record is cut short")
    return text.decode("ascii")
