// One line of a log while a stream writes it: text that the cursor may overwrite, and its styles.
// Pure.

/**
 * `text`, and `runs`: `[[column, style], …]` in order, each style holding up to the next; the first
 * begins at 0. An empty `runs` is plain text.
 */
export class Line {
  text = "";
  runs = [];

  /** Writes over what is there from `column` on; beyond the end it is filled up with blanks. */
  write(column, text, style) {
    if (column > this.text.length) {
      this.#put(this.text.length, " ".repeat(column - this.text.length), "");
    }
    this.#put(column, text, style);
  }

  /** Drops all from `column` on. */
  cut(column) {
    this.text = this.text.slice(0, column);
    this.runs = this.runs.filter(([begin]) => begin < column);
    this.#simplify();
  }

  #put(column, text, style) {
    const end = column + text.length;
    const length = this.text.length;
    const plain = style === "" && this.runs.length === 0;
    if (column === length) {
      this.text += text;
      if (!plain && (this.runs.at(-1)?.[1] ?? "") !== style) {
        if (this.runs.length === 0 && column > 0) {
          this.runs.push([0, ""]);
        }
        this.runs.push([column, style]);
      }
      return;
    }
    const after = end < length ? this.#styleAt(end) : null;
    this.text = this.text.slice(0, column) + text + this.text.slice(end);
    if (plain) {
      return;
    }
    if (this.runs.length === 0) {
      this.runs.push([0, ""]);
    }
    const kept = this.runs.filter(([begin]) => begin < column);
    const rest = this.runs.filter(([begin]) => begin > end);
    const back = after === null ? [] : [[end, after]];
    this.runs = [...kept, [column, style], ...back, ...rest];
    this.#simplify();
  }

  #styleAt(column) {
    let style = "";
    for (const [begin, one] of this.runs) {
      if (begin > column) {
        break;
      }
      style = one;
    }
    return style;
  }

  #simplify() {
    if (this.runs.length === 0) {
      return;
    }
    const runs = [];
    for (const run of this.runs) {
      if (runs.at(-1)?.[1] !== run[1]) {
        runs.push(run);
      }
    }
    this.runs = runs.length === 1 && runs[0][1] === "" ? [] : runs;
  }
}
