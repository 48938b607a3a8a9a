// Follows one job: its states and its journal by offset, over lost connections and restarts of the
// daemon, so that no line is lost or doubled. What is too much to be shown is left out, and said.

import {bytes as sizeWords} from "./format.js";
import {STREAMS, Kind, decodeFrames, said} from "./job_journal.js";
import {decodeBytes} from "./wamp.js";

// Of a long journal so much is read from its begin, and so much from its end.
export const HEAD_BYTES = 1 << 20;
export const TAIL_BYTES = 12 << 20;
const PAUSE_MS = 1_000;
// What passes: the connection comes back, the daemon gets well.
const PASSING = ["disconnected", "timeout", "unavailable"];

// `connection`: of wamp.js. `lines`: a JobLines. `on`: what is told, each a function:
//   view(job)            the job's state, when it is another one
//   progress(progress)   the code's last word
//   changed()            there are new lines
//   interrupted(error)   the following was cut, and goes on by itself
//   ended(job)           all of its output is there
//   gone(error)          there is no such job (any more)
//   failed(error)        the following can't go on; `follow()` tries again
export class JobFollower {
  #connection;
  #jobId;
  #lines;
  #on;
  #limits;
  #offset = 0;
  #end = new AbortController();
  #attempt = null;
  #follows = false;

  constructor(
    connection,
    jobId,
    lines,
    on,
    limits = {headBytes: HEAD_BYTES, tailBytes: TAIL_BYTES},
  ) {
    this.#connection = connection;
    this.#jobId = jobId;
    this.#lines = lines;
    this.#on = on;
    this.#limits = limits;
  }

  // Follows until the job's end, or until `stop`. Never throws.
  async follow() {
    if (this.#follows) return;
    this.#follows = true;
    try {
      while (!this.#end.signal.aborted) {
        await this.#opened();
        if (this.#end.signal.aborted || (await this.#once())) return;
      }
    } finally {
      this.#follows = false;
    }
  }

  stop() {
    this.#end.abort();
  }

  // One look, and one call of attach; returns whether that was the last one.
  async #once() {
    try {
      const view = await this.#call("cumulus.job.get", {});
      this.#on.view(view);
      const {headBytes, tailBytes} = this.#limits;
      if (
        this.#offset < headBytes &&
        view.journal.end_offset - this.#offset > headBytes + tailBytes
      ) {
        await this.#head(headBytes);
      }
      const end = await this.#call(
        "cumulus.job.attach",
        {from_offset: this.#offset, tail_bytes: tailBytes},
        (part) => this.#take(part),
      );
      this.#lines.end();
      this.#on.changed();
      this.#on.ended(end.job);
      return true;
    } catch (error) {
      return this.#failed(error);
    }
  }

  // Reads the begin of a long journal, and gives the rest up.
  async #head(headBytes) {
    const enough = new AbortController();
    const abort = () => enough.abort();
    this.#end.signal.addEventListener("abort", abort, {once: true});
    try {
      await this.#call(
        "cumulus.job.attach",
        {from_offset: this.#offset},
        (part) => {
          if (enough.signal.aborted) return;
          this.#take(part);
          if (this.#offset >= headBytes) enough.abort();
        },
        enough.signal,
      );
    } catch (error) {
      if (error.code !== "aborted" || this.#end.signal.aborted) throw error;
    } finally {
      this.#end.signal.removeEventListener("abort", abort);
    }
  }

  async #failed(error) {
    if (this.#end.signal.aborted || error.code === "aborted") return true;
    const goOn = error.details?.continue_from;
    if (error.code === "invalid_argument" && Number.isInteger(goOn) && goOn < this.#offset) {
      this.#lines.mark(
        "gap",
        "The daemon lost its last output with its power. What is shown between " +
          `byte ${goOn} of the journal and here is void, and comes again as the job left it.`,
      );
      this.#offset = goOn;
      this.#on.changed();
      return false;
    }
    if (PASSING.includes(error.code)) {
      this.#on.interrupted(error);
      await this.#pause();
      return false;
    }
    if (error.code === "not_found") this.#on.gone(error);
    else this.#on.failed(error);
    return true;
  }

  #call(uri, kwargs, onProgress = null, signal = this.#end.signal) {
    return this.#connection.call(uri, {job_id: this.#jobId, ...kwargs}, {onProgress, signal});
  }

  #take(part) {
    if (part.event === "state") this.#on.view(part.job);
    else if (part.event === "gap")
      this.#skipTo(
        part.next_offset,
        "are not kept any more: a job's output is bounded, and history drops it in the end",
      );
    else if (part.event === "journal") this.#journal(part);
  }

  #journal({offset, next_offset: nextOffset, frames}) {
    if (offset > this.#offset) this.#skipTo(offset, "are not shown here");
    for (const record of decodeFrames(decodeBytes(frames) ?? frames, offset)) {
      if (record.offset >= this.#offset) this.#record(record);
    }
    this.#offset = Math.max(this.#offset, nextOffset);
    this.#on.changed();
  }

  #skipTo(offset, why) {
    if (offset <= this.#offset) return;
    this.#lines.mark("gap", `${sizeWords(offset - this.#offset)} of the job's journal ${why}`);
    this.#offset = offset;
    this.#on.changed();
  }

  #record(record) {
    const stream = STREAMS[record.kind];
    if (stream !== undefined) {
      this.#lines.feed(stream, record.payload, record.timeMs);
    } else if (record.kind === Kind.PROGRESS) {
      this.#on.progress(progressOf(said(record)));
    } else if (record.kind === Kind.STATUS) {
      this.#status(said(record), record.timeMs);
    } else if (record.kind === Kind.EXIT) {
      this.#lines.mark("note", exitWords(said(record)), record.timeMs);
    } else if (record.kind === Kind.GAP) {
      this.#lines.mark(
        "gap",
        "The worker was given up here: what the job wrote there after this is not known",
        record.timeMs,
      );
    }
  }

  #status({phase, attempt, requirements, cached, build_s: buildS}, timeMs) {
    if (phase === "setup" && Number.isInteger(attempt) && attempt !== this.#attempt) {
      this.#attempt = attempt;
      if (attempt > 1) this.#lines.mark("note", `Attempt ${attempt} begins`, timeMs);
    } else if (phase === "running" && requirements > 0) {
      const how = cached ? "was there already" : `was made in ${Number(buildS ?? 0).toFixed(1)} s`;
      this.#lines.mark(
        "note",
        `The environment of ${requirements} requirement${requirements === 1 ? "" : "s"} ${how}; ` +
          "the code begins",
        timeMs,
      );
    }
  }

  // When the connection stands. A timer would ask for nothing: the connection tells.
  #opened() {
    return new Promise((resolve) => {
      const {signal} = this.#end;
      if (this.#connection.state === "open" || signal.aborted) {
        resolve();
        return;
      }
      const done = () => {
        off();
        signal.removeEventListener("abort", done);
        resolve();
      };
      const off = this.#connection.onState(({state}) => state === "open" && done());
      signal.addEventListener("abort", done);
    });
  }

  #pause() {
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer);
        this.#end.signal.removeEventListener("abort", done);
        resolve();
      };
      const timer = setTimeout(done, PAUSE_MS);
      this.#end.signal.addEventListener("abort", done);
    });
  }
}

// What of a progress record can be shown: the job can write anything there.
function progressOf({fraction, message}) {
  return {
    fraction: typeof fraction === "number" ? Math.min(1, Math.max(0, fraction)) : null,
    message: typeof message === "string" ? message : null,
  };
}

function exitWords({outcome, message}) {
  const words =
    {
      completed: "The code completed",
      failed: "The code failed",
      timeout: "The code's time was up",
      cancelled: "The code was cancelled",
      paused: "The code paused",
    }[outcome] ?? "The code ended";
  return typeof message === "string" && message && message !== outcome
    ? `${words}: ${message}`
    : words;
}
