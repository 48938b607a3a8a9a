// Bytes of one stream to text, piece by piece. Pure.
//
// A byte that is no UTF-8 becomes the lone surrogate U+DC80..U+DCFF, as Python's `surrogateescape`
// has it: valid UTF-8 never gives one, so that it can be shown for what it is.

const ESCAPE_BASE = 0xdc00;

/** Decodes a stream's bytes; a character that is cut at the end of a piece waits for the next. */
export class Utf8Decoder {
  #fatal = new TextDecoder("utf-8", {fatal: true, ignoreBOM: true});
  #held = new Uint8Array(0);

  /** The text that `bytes` completes. */
  decode(bytes) {
    let source = bytes;
    if (this.#held.length > 0) {
      source = new Uint8Array(this.#held.length + bytes.length);
      source.set(this.#held);
      source.set(bytes, this.#held.length);
    }
    const whole = source.length - cutTail(source);
    this.#held = source.slice(whole);
    const complete = source.subarray(0, whole);
    try {
      return this.#fatal.decode(complete);
    } catch (error) {
      if (!(error instanceof TypeError)) {
        throw error;
      }
      return decodeEscaping(complete);
    }
  }

  /** What still waited, when no more will come. */
  end() {
    const text = decodeEscaping(this.#held);
    this.#held = new Uint8Array(0);
    return text;
  }
}

/** How many bytes at the end may be the begin of a character that goes on. */
function cutTail(bytes) {
  for (let back = 1; back <= Math.min(3, bytes.length); back += 1) {
    const at = bytes.length - back;
    const needed = lengthOf(bytes[at]);
    if (needed === 1 && (bytes[at] & 0xc0) === 0x80) {
      continue; // a continuation: its lead is further back
    }
    return needed > back && validPrefix(bytes, at, back) ? back : 0;
  }
  return 0;
}

function lengthOf(lead) {
  if (lead >= 0xc2 && lead <= 0xdf) {
    return 2;
  }
  if (lead >= 0xe0 && lead <= 0xef) {
    return 3;
  }
  return lead >= 0xf0 && lead <= 0xf4 ? 4 : 1;
}

/** Whether `count` bytes at `at`, the first a lead, can begin a character (Unicode, table 3-7). */
function validPrefix(bytes, at, count) {
  const lead = bytes[at];
  for (let index = 1; index < count; index += 1) {
    const byte = bytes[at + index];
    let low = 0x80;
    let high = 0xbf;
    if (index === 1) {
      low = lead === 0xe0 ? 0xa0 : lead === 0xf0 ? 0x90 : low;
      high = lead === 0xed ? 0x9f : lead === 0xf4 ? 0x8f : high;
    }
    if (byte === undefined || byte < low || byte > high) {
      return false;
    }
  }
  return true;
}

function decodeEscaping(bytes) {
  const parts = [];
  const units = [];
  const flush = () => {
    parts.push(String.fromCharCode(...units));
    units.length = 0;
  };
  for (let at = 0; at < bytes.length;) {
    const lead = bytes[at];
    const length = lengthOf(lead);
    if (lead < 0x80) {
      units.push(lead);
      at += 1;
    } else if (length > 1 && validPrefix(bytes, at, length)) {
      let point = lead & (0xff >> (length + 1));
      for (let index = 1; index < length; index += 1) {
        point = (point << 6) | (bytes[at + index] & 0x3f);
      }
      if (point > 0xffff) {
        units.push(0xd800 + ((point - 0x10000) >> 10), 0xdc00 + ((point - 0x10000) & 0x3ff));
      } else {
        units.push(point);
      }
      at += length;
    } else {
      units.push(ESCAPE_BASE + lead);
      at += 1;
    }
    if (units.length > 4096) {
      flush();
    }
  }
  flush();
  return parts.join("");
}
