// The streams of a job as lines of a log: bytes in, rows out. Pure.

import {AnsiReader} from "./job_ansi.js";
import {Line} from "./job_line.js";
import {Utf8Decoder} from "./job_utf8.js";

// A line that is longer goes on in a row of its own.
export const MAX_LINE_CHARS = 4096;

/**
 * One stream. A line has its row in `log` from its first character on, and is written there until
 * its end. `log` is as in job_log.js: `append(row)` gives the row that is shown, `touch(row)` says
 * that it changed, and gives the row to write on.
 */
class StreamLines {
  #log;
  #stream;
  #decoder = new Utf8Decoder();
  #reader = new AnsiReader(this);
  #row = null;
  #column = 0;
  #timeMs = 0;
  #changed = false;

  constructor(stream, log) {
    this.#stream = stream;
    this.#log = log;
  }

  feed(bytes, timeMs) {
    this.#timeMs = timeMs;
    this.#take(this.#decoder.decode(bytes));
  }

  /** No more comes, or what comes next doesn't follow: half characters and an open line end. */
  end() {
    this.#take(this.#decoder.end());
    this.#close();
    this.#reader = new AnsiReader(this);
  }

  #take(text) {
    this.#reader.feed(text);
    if (this.#changed && this.#row !== null) {
      this.#row = this.#log.touch(this.#row);
    }
    this.#changed = false;
  }

  write(text, style) {
    let rest = text;
    while (rest.length > 0) {
      if (this.#column >= MAX_LINE_CHARS) {
        this.#close(true);
      }
      this.#open();
      let room = MAX_LINE_CHARS - this.#column;
      if (rest.length > room && room > 1 && isHighSurrogate(rest, room - 1)) {
        room -= 1; // a character's two halves stay together
      }
      const part = rest.slice(0, room);
      this.#row.line.write(this.#column, part, style);
      this.#column += part.length;
      rest = rest.slice(part.length);
      if (rest.length > 0) {
        this.#column = MAX_LINE_CHARS;
      }
      this.#changed = true;
    }
  }

  newline() {
    this.#open();
    this.#close();
  }

  carriageReturn() {
    this.#column = 0;
  }

  backspace() {
    this.#column = Math.max(0, this.#column - 1);
  }

  eraseLine(mode) {
    if (this.#row === null) {
      return;
    }
    const line = this.#row.line;
    if (mode === 1) {
      line.write(0, " ".repeat(Math.min(this.#column + 1, line.text.length)), "");
    } else {
      line.cut(mode === 0 ? this.#column : 0);
    }
    this.#changed = true;
  }

  #open(goesOn = false) {
    if (this.#row === null) {
      this.#row = this.#log.append({
        kind: "line",
        stream: this.#stream,
        timeMs: this.#timeMs,
        line: new Line(),
        open: true,
        goesOn,
      });
    }
  }

  #close(goesOn = false) {
    if (this.#row !== null) {
      if (this.#changed) {
        this.#row = this.#log.touch(this.#row);
      }
      this.#row.open = false;
      this.#row = null;
    }
    this.#column = 0;
    this.#changed = false;
    if (goesOn) {
      this.#open(true);
    }
  }
}

/** All streams of a job, into one `log`. */
export class JobLines {
  #log;
  #streams = new Map();

  constructor(log) {
    this.#log = log;
  }

  /** Output: `stream` is "stdout", "stderr" or "setup". */
  feed(stream, bytes, timeMs) {
    let lines = this.#streams.get(stream);
    if (lines === undefined) {
      lines = new StreamLines(stream, this.#log);
      this.#streams.set(stream, lines);
    }
    lines.feed(bytes, timeMs);
  }

  /** Something that isn't the job's output, in its place. `kind`: "note" or "gap". */
  mark(kind, text, timeMs = null) {
    this.end();
    const line = new Line();
    line.write(0, text, "");
    this.#log.append({kind, stream: null, timeMs, line, open: false, goesOn: false});
  }

  /** What is open ends: nothing follows, or nothing that belongs to it. */
  end() {
    for (const lines of this.#streams.values()) {
      lines.end();
    }
  }
}

function isHighSurrogate(text, at) {
  const unit = text.charCodeAt(at);
  return unit >= 0xd800 && unit <= 0xdbff;
}
