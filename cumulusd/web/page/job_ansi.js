// What a terminal would make of a stream's text: colours, and where the cursor goes. Pure.
//
// Of escape sequences only colours (SGR) and "erase in line", which progress bars use, are obeyed;
// all others are dropped. Nothing of the text is ever taken for markup: it leaves as text with the
// names of classes beside it. What can't be shown as it is (invalid bytes, other control characters) is
// written out, in the class `log-escaped`.

// Control characters; what would turn the direction of a line's text; invalid bytes (job_utf8.js).
const CONTROL =
  /[\u0000-\u0008\u000a-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069]|(?<![\ud800-\udbff])[\udc80-\udcff]/g;
const MAX_PARAMETER_CHARS = 128;
// A title or the like that never ends would hide all that follows.
const MAX_STRING_CHARS = 4096;
const PLAIN = Object.freeze({
  fg: null,
  bg: null,
  bold: false,
  dim: false,
  italic: false,
  underline: false,
  inverse: false,
  strike: false,
});
// The sixteen colours of a terminal, to find the nearest of them.
const BASIC = [
  [0, 0, 0],
  [205, 0, 0],
  [0, 205, 0],
  [205, 205, 0],
  [0, 0, 238],
  [205, 0, 205],
  [0, 205, 205],
  [229, 229, 229],
  [127, 127, 127],
  [255, 0, 0],
  [0, 255, 0],
  [255, 255, 0],
  [92, 92, 255],
  [255, 0, 255],
  [0, 255, 255],
  [255, 255, 255],
];

/**
 * Reads one stream's text, and tells `sink` what becomes of it: `write(text, style)`, `newline()`,
 * `carriageReturn()`, `backspace()`, `eraseLine(mode)` (0 to the end, 1 to the begin, 2 all).
 * `style` is a string of class names, "" for plain text. A sequence may be cut anywhere.
 */
export class AnsiReader {
  #sink;
  #state = "text";
  #collected = "";
  #stringChars = 0;
  #attributes = PLAIN;
  #style = "";

  constructor(sink) {
    this.#sink = sink;
  }

  /** Takes the next piece. */
  feed(text) {
    let at = 0;
    while (at < text.length) {
      at = this.#state === "text" ? this.#text(text, at) : this.#sequence(text, at);
    }
  }

  #text(text, begin) {
    CONTROL.lastIndex = begin;
    const found = CONTROL.exec(text);
    const end = found === null ? text.length : found.index;
    if (end > begin) {
      this.#sink.write(text.slice(begin, end), this.#style);
    }
    if (found === null) {
      return end;
    }
    const control = found[0];
    if (control === "\n") {
      this.#sink.newline();
    } else if (control === "\r") {
      this.#sink.carriageReturn();
    } else if (control === "\b") {
      this.#sink.backspace();
    } else if (control === "\u001b") {
      this.#state = "escape";
    } else if (control !== "\u0000" && control !== "\u0007") {
      this.#sink.write(writtenOut(control.charCodeAt(0)), `${this.#style} log-escaped`.trim());
    }
    return end + 1;
  }

  #sequence(text, at) {
    const char = text[at];
    if (char === "\u001b" && this.#state !== "string") {
      this.#begin("escape");
      return at + 1;
    }
    if (char === "\n" || char === "\r") {
      // No sequence goes over a line's end: a broken one hides no more than that.
      this.#begin("text");
      return at;
    }
    if (this.#state === "escape") {
      if (char === "[") {
        this.#begin("parameters");
      } else if ("]PX^_".includes(char)) {
        this.#begin("string");
      } else if (char < "\u0020" || char > "\u002f") {
        this.#begin("text"); // all of it is one character long
      }
    } else if (this.#state === "parameters") {
      if (char >= "\u0040" && char <= "\u007e") {
        const parameters = this.#collected;
        this.#begin("text");
        this.#obey(parameters, char);
      } else if (
        char < "\u0020" ||
        char > "\u007e" ||
        this.#collected.length >= MAX_PARAMETER_CHARS
      ) {
        this.#begin("text"); // not a sequence
        return at;
      } else {
        this.#collected += char;
      }
    } else if (char === "\u0007") {
      this.#begin("text");
    } else if (char === "\u001b") {
      this.#begin("escape"); // of the string's end, ESC \
    } else {
      this.#stringChars += 1;
      if (this.#stringChars > MAX_STRING_CHARS) {
        this.#begin("text");
      }
    }
    return at + 1;
  }

  #begin(state) {
    this.#state = state;
    this.#collected = "";
    this.#stringChars = 0;
  }

  #obey(parameters, final) {
    if (final === "m" && /^[0-9;:]*$/.test(parameters)) {
      this.#attributes = afterSgr(this.#attributes, parameters);
      this.#style = classesOf(this.#attributes);
    } else if (final === "K" && /^[0-2]?$/.test(parameters)) {
      this.#sink.eraseLine(Number(parameters || 0));
    }
  }
}

function writtenOut(unit) {
  const isByte = unit < 0x100 || (unit >= 0xdc80 && unit <= 0xdcff);
  const digits = (isByte ? unit & 0xff : unit).toString(16);
  return isByte ? `\\x${digits.padStart(2, "0")}` : `\\u${digits.padStart(4, "0")}`;
}

function afterSgr(before, parameters) {
  let now = {...before};
  const codes = parameters.split(/[;:]/).map((text) => Number(text || 0));
  for (let at = 0; at < codes.length; at += 1) {
    const code = codes[at];
    if (code === 0) {
      now = {...PLAIN};
    } else if (code === 1) {
      now.bold = true;
    } else if (code === 2) {
      now.dim = true;
    } else if (code === 3) {
      now.italic = true;
    } else if (code === 4) {
      now.underline = true;
    } else if (code === 7) {
      now.inverse = true;
    } else if (code === 9) {
      now.strike = true;
    } else if (code === 22) {
      now.bold = now.dim = false;
    } else if (code === 23) {
      now.italic = false;
    } else if (code === 24) {
      now.underline = false;
    } else if (code === 27) {
      now.inverse = false;
    } else if (code === 29) {
      now.strike = false;
    } else if (code >= 30 && code <= 37) {
      now.fg = code - 30;
    } else if (code >= 90 && code <= 97) {
      now.fg = code - 82;
    } else if (code >= 40 && code <= 47) {
      now.bg = code - 40;
    } else if (code >= 100 && code <= 107) {
      now.bg = code - 92;
    } else if (code === 39) {
      now.fg = null;
    } else if (code === 49) {
      now.bg = null;
    } else if (code === 38 || code === 48) {
      const [colour, used] = extendedColour(codes, at + 1);
      if (colour !== null) {
        now[code === 38 ? "fg" : "bg"] = colour;
      }
      at += used;
    }
  }
  return now;
}

/** The basic colour nearest to `5;n` or `2;r;g;b` at `at`, and how many codes that took. */
function extendedColour(codes, at) {
  if (codes[at] === 5) {
    return [nearestOf256(codes[at + 1]), 2];
  }
  if (codes[at] === 2) {
    return [nearest(codes.slice(at + 1, at + 4)), 4];
  }
  return [null, 0];
}

function nearestOf256(number) {
  if (!(number >= 0 && number <= 255)) {
    return null;
  }
  if (number < 16) {
    return number;
  }
  if (number >= 232) {
    const grey = 8 + 10 * (number - 232);
    return nearest([grey, grey, grey]);
  }
  const levels = [0, 95, 135, 175, 215, 255];
  const cube = number - 16;
  return nearest([
    levels[Math.floor(cube / 36)],
    levels[Math.floor(cube / 6) % 6],
    levels[cube % 6],
  ]);
}

function nearest(rgb) {
  if (rgb.length < 3 || rgb.some((value) => !(value >= 0 && value <= 255))) {
    return null;
  }
  let best = 0;
  let least = Infinity;
  BASIC.forEach((colour, index) => {
    const distance = colour.reduce((sum, value, at) => sum + (value - rgb[at]) ** 2, 0);
    if (distance < least) {
      [best, least] = [index, distance];
    }
  });
  return best;
}

function classesOf(attributes) {
  const classes = [];
  if (attributes.fg !== null) {
    classes.push(`ansi-fg-${attributes.fg}`);
  }
  if (attributes.bg !== null) {
    classes.push(`ansi-bg-${attributes.bg}`);
  }
  for (const name of ["bold", "dim", "italic", "underline", "inverse", "strike"]) {
    if (attributes[name]) {
      classes.push(`ansi-${name}`);
    }
  }
  return classes.join(" ");
}
