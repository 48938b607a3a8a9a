// Finding text in a job's log, also while it grows. Pure.

export const MAX_MATCHES = 100000;

/** The matches of one query in a JobLog; `update` brings them up to date with it. */
export class LogSearch {
  #log;
  #pattern = null;
  #ids = []; // of rows with matches, in order
  #found = new Map(); // id -> [[begin, end], …]
  #count = 0;

  constructor(log) {
    this.#log = log;
  }

  /** How many matches are known. */
  get count() {
    return this.#count;
  }

  /** Whether there may be more than are known. */
  get isFull() {
    return this.#count >= MAX_MATCHES;
  }

  get isActive() {
    return this.#pattern !== null;
  }

  /** Looks for that text in all that is kept, whatever its case; "" ends the search. */
  find(query) {
    this.#ids = [];
    this.#found.clear();
    this.#count = 0;
    this.#pattern = query === "" ? null : patternOf(query);
    if (this.#pattern === null) {
      return;
    }
    for (let index = 0; index < this.#log.length && !this.isFull; index += 1) {
      const row = this.#log.at(index);
      if (row.kind !== "dropped") {
        this.#scan(row, true);
      }
    }
  }

  /** `changed`: the ids of rows that are new or changed; those that the log dropped are forgotten. */
  update(changed) {
    if (this.#pattern === null) {
      return;
    }
    this.#forgetDropped();
    const last = this.#ids.at(-1) ?? -1;
    for (const id of [...changed].sort((one, other) => one - other)) {
      this.#forget(id);
      const row = this.#log.byId(id);
      if (row !== undefined && !this.isFull) {
        this.#scan(row, id > last);
      }
    }
  }

  /** The matches in a row: `[[begin, end], …]`. */
  inRow(id) {
    return this.#found.get(id) ?? [];
  }

  /**
   * The match after (`step` 1) or before (-1) `current`, around the ends: `{id, nth, number}`, with
   * `number` from 1 among all. `current` is one of these, or `{id, nth: -1}` for a row's begin.
   */
  step(current, step) {
    if (this.#ids.length === 0) {
      return null;
    }
    let at = this.#position(current.id);
    let nth;
    if (this.#ids[at] !== current.id) {
      // Its row has none: the neighbour's.
      at = step > 0 ? at : at - 1;
      nth = step > 0 ? 0 : Infinity;
    } else {
      nth = current.nth + step;
      if (nth < 0) {
        at -= 1;
        nth = Infinity;
      } else if (nth >= this.inRow(current.id).length) {
        at += 1;
        nth = 0;
      }
    }
    at = (at + this.#ids.length) % this.#ids.length;
    const id = this.#ids[at];
    nth = Math.min(nth, this.inRow(id).length - 1);
    return {id, nth, number: this.#numberOf(at, nth)};
  }

  /** The same match as it counts now; null when it is gone. */
  again(current) {
    const at = this.#position(current.id);
    if (this.#ids[at] !== current.id || current.nth >= this.inRow(current.id).length) {
      return null;
    }
    return {...current, number: this.#numberOf(at, current.nth)};
  }

  #numberOf(at, nth) {
    let before = 0;
    for (let index = 0; index < at; index += 1) {
      before += this.inRow(this.#ids[index]).length;
    }
    return before + nth + 1;
  }

  #scan(row, isLast) {
    const ranges = [];
    for (const match of row.line.text.matchAll(this.#pattern)) {
      ranges.push([match.index, match.index + match[0].length]);
      if (this.#count + ranges.length >= MAX_MATCHES) {
        break;
      }
    }
    if (ranges.length === 0) {
      return;
    }
    this.#found.set(row.id, ranges);
    this.#count += ranges.length;
    if (isLast) {
      this.#ids.push(row.id);
    } else {
      this.#ids.splice(this.#position(row.id), 0, row.id);
    }
  }

  #forget(id) {
    const ranges = this.#found.get(id);
    if (ranges !== undefined) {
      this.#count -= ranges.length;
      this.#found.delete(id);
      this.#ids.splice(this.#position(id), 1);
    }
  }

  #forgetDropped() {
    const kept = this.#ids.filter((id) => this.#log.isKept(id));
    if (kept.length < this.#ids.length) {
      for (const id of this.#ids) {
        if (!this.#log.isKept(id)) {
          this.#count -= this.#found.get(id).length;
          this.#found.delete(id);
        }
      }
      this.#ids = kept;
    }
  }

  /** The first position in #ids whose id isn't smaller. */
  #position(id) {
    let low = 0;
    let high = this.#ids.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#ids[middle] < id) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  }
}

function patternOf(query) {
  return new RegExp(query.replace(/[.*+?^${}()|[\]\\/]/g, "\\$&"), "giu");
}
