// A job's journal as records: the frames of docs/protocol.md section 4. Pure.

export const Kind = Object.freeze({
  STDOUT: 1,
  STDERR: 2,
  SETUP: 3,
  STATUS: 4,
  PROGRESS: 5,
  RESULT: 6,
  ERROR: 7,
  EXIT: 8,
  GAP: 9,
  CHECKPOINT: 10,
});

/** The kinds whose payload is output, and how a reader is told which. */
export const STREAMS = Object.freeze({
  [Kind.STDOUT]: "stdout",
  [Kind.STDERR]: "stderr",
  [Kind.SETUP]: "setup",
});

const MAGIC = 0xc5;
const HEADER_BYTES = 20;
const CHECKED_BYTES = 16;
const MAX_PAYLOAD_BYTES = 1 << 20;
const LAST_KIND = Kind.CHECKPOINT;

/** The bytes at `offset` are no frame. */
export class JournalCorrupt extends Error {
  constructor(offset, why) {
    super(`the job's journal is damaged at offset ${offset}: ${why}`);
    this.name = "JournalCorrupt";
    this.offset = offset;
  }
}

const CRC_TABLE = Uint32Array.from({length: 256}, (_, index) => {
  let value = index;
  for (let bit = 0; bit < 8; bit += 1) {
    value = value & 1 ? 0xedb88320 ^ (value >>> 1) : value >>> 1;
  }
  return value >>> 0;
});

function crc32(bytes, begin, end, crc) {
  let value = crc;
  for (let at = begin; at < end; at += 1) {
    value = CRC_TABLE[(value ^ bytes[at]) & 0xff] ^ (value >>> 8);
  }
  return value;
}

/**
 * The records in `bytes`, which are whole frames that begin at the journal's `offset`:
 * `{kind, payload, timeMs, offset, nextOffset}`. A payload is a view on `bytes`, no copy.
 * Throws JournalCorrupt.
 */
export function decodeFrames(bytes, offset) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const records = [];
  let at = 0;
  while (at < bytes.length) {
    const here = offset + at;
    if (bytes.length - at < HEADER_BYTES) {
      throw new JournalCorrupt(here, "a frame's header is cut");
    }
    const kind = view.getUint8(at + 1);
    const length = view.getUint32(at + 4);
    if (view.getUint8(at) !== MAGIC || view.getUint16(at + 2) !== 0 || length > MAX_PAYLOAD_BYTES) {
      throw new JournalCorrupt(here, "no frame header");
    }
    const begin = at + HEADER_BYTES;
    const end = begin + length;
    if (end > bytes.length) {
      throw new JournalCorrupt(here, "a frame is cut");
    }
    const crc = crc32(bytes, begin, end, crc32(bytes, at, at + CHECKED_BYTES, 0xffffffff));
    if ((crc ^ 0xffffffff) >>> 0 !== view.getUint32(at + CHECKED_BYTES)) {
      throw new JournalCorrupt(here, "checksum mismatch");
    }
    if (kind < Kind.STDOUT || kind > LAST_KIND) {
      throw new JournalCorrupt(here, `unknown kind ${kind}`);
    }
    records.push({
      kind,
      payload: bytes.subarray(begin, end),
      timeMs: Number(view.getBigUint64(at + 8)) / 1000,
      offset: here,
      nextOffset: offset + end,
    });
    at = end;
  }
  return records;
}

/** What a record of a JSON kind says; empty where the job, which can write anything there, wrote no
 * JSON object. */
export function said(record) {
  try {
    const value = JSON.parse(new TextDecoder().decode(record.payload));
    return value !== null && typeof value === "object" && !Array.isArray(value) ? value : {};
  } catch (error) {
    if (error instanceof SyntaxError || error instanceof RangeError) {
      return {};
    }
    throw error;
  }
}
