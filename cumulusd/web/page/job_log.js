// What a job's log shows, bounded: its begin, its end, and how much is left out between. Pure.

export const HEAD_ROWS = 5000;
export const TAIL_ROWS = 50000;
const HEAD_CHARS = 2 << 20;
const TAIL_CHARS = 16 << 20;
// Every row costs something, however short it is.
const ROW_CHARS = 32;

/**
 * Rows by position, for who shows them, and by id, for who points at them. An id is the row's
 * number in the whole log, and never changes. When some were dropped, one row of the kind "dropped"
 * stands in their place.
 */
export class JobLog {
  #head = [];
  #tail = [];
  #tailBegin = 0; // of #tail's rows before it nothing is kept
  #dropped = 0;
  #droppedRow = null;
  #headChars = 0;
  #tailChars = 0;
  #changed = new Set();
  #lines = 0;
  #isPartial = false;
  #limits;

  constructor(limits = {}) {
    this.#limits = {
      headRows: HEAD_ROWS,
      tailRows: TAIL_ROWS,
      headChars: HEAD_CHARS,
      tailChars: TAIL_CHARS,
      ...limits,
    };
  }

  /** How many rows there are to show. */
  get length() {
    return this.#head.length + (this.#dropped > 0 ? 1 : 0) + this.#tailLength;
  }

  /** How many rows were dropped. */
  get dropped() {
    return this.#dropped;
  }

  /** How many rows there ever were. */
  get total() {
    return this.#head.length + this.#dropped + this.#tailLength;
  }

  /** How many lines of the job's there ever were, whatever else stands between them. */
  get lines() {
    return this.#lines;
  }

  /** Whether more was written than ever came here. */
  get isPartial() {
    return this.#isPartial;
  }

  get #tailLength() {
    return this.#tail.length - this.#tailBegin;
  }

  get #tailId() {
    return this.#head.length + this.#dropped;
  }

  /** The row that is shown at `index`. */
  at(index) {
    if (index < this.#head.length) {
      return this.#head[index];
    }
    if (this.#dropped === 0) {
      return this.#tail[this.#tailBegin + index - this.#head.length];
    }
    return index === this.#head.length
      ? this.#droppedRow
      : this.#tail[this.#tailBegin + index - this.#head.length - 1];
  }

  /** The row of that id, undefined when it isn't kept. */
  byId(id) {
    return this.isKept(id) ? this.at(this.indexOf(id)) : undefined;
  }

  /** Where the row of that id is shown; that of a dropped one is where they were. */
  indexOf(id) {
    if (id < this.#tailId) {
      return Math.min(id, this.#head.length);
    }
    return id - this.#dropped + (this.#dropped > 0 ? 1 : 0);
  }

  /** The id of what was shown at `index` when `dropped` rows were dropped; null: of no row. */
  idAt(index, dropped) {
    if (index < this.#head.length) {
      return index;
    }
    const id = dropped > 0 ? index + dropped - 1 : index;
    return (dropped > 0 && index === this.#head.length) || id >= this.total ? null : id;
  }

  /** Whether the row of that id is kept. */
  isKept(id) {
    return id < this.#head.length || (id >= this.#tailId && id < this.total);
  }

  /** Adds a row, and gives it its id. Returns it. */
  append(row) {
    row.id = this.total;
    row.chars = row.line.text.length + ROW_CHARS;
    row.version = 0;
    const {headRows, headChars} = this.#limits;
    const headOpen = this.#dropped === 0 && this.#tail.length === 0;
    if (headOpen && this.#head.length < headRows && this.#headChars < headChars) {
      this.#head.push(row);
      this.#headChars += row.chars;
    } else {
      this.#tail.push(row);
      this.#tailChars += row.chars;
      this.#trim();
    }
    this.#changed.add(row.id);
    if (row.kind === "line" && !row.goesOn) {
      this.#lines += 1;
    }
    this.#isPartial ||= row.kind === "gap";
    return row;
  }

  /**
   * Says that a row's text changed. Returns it, or, when it isn't kept any more (a progress bar
   * that many lines came behind), the one that stands for it now, at the end.
   */
  touch(row) {
    if (!this.isKept(row.id)) {
      return row.open ? this.append({...row, goesOn: true}) : row;
    }
    const chars = row.line.text.length + ROW_CHARS;
    if (row.id < this.#head.length) {
      this.#headChars += chars - row.chars;
    } else {
      this.#tailChars += chars - row.chars;
    }
    row.chars = chars;
    row.version += 1;
    this.#changed.add(row.id);
    this.#trim();
    return row;
  }

  /** The ids of kept rows that are new or changed since the last time, in no order. */
  takeChanged() {
    const changed = this.#changed;
    this.#changed = new Set();
    return changed;
  }

  #trim() {
    const {tailRows, tailChars} = this.#limits;
    while (this.#tailLength > 1 && (this.#tailLength > tailRows || this.#tailChars > tailChars)) {
      const row = this.#tail[this.#tailBegin];
      this.#tail[this.#tailBegin] = undefined;
      this.#tailBegin += 1;
      this.#tailChars -= row.chars;
      this.#dropped += 1;
      this.#changed.delete(row.id);
    }
    if (this.#tailBegin > 4096 && this.#tailBegin > this.#tail.length / 2) {
      this.#tail = this.#tail.slice(this.#tailBegin);
      this.#tailBegin = 0;
    }
    if (this.#dropped > 0 && this.#droppedRow?.count !== this.#dropped) {
      const more = this.#isPartial;
      this.#droppedRow = {
        kind: "dropped",
        count: this.#dropped,
        more,
        id: -1,
        version: this.#dropped,
      };
    }
  }
}
