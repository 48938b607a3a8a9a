// Following a job by offset, with a daemon that is made up.
import assert from "node:assert/strict";
import {test} from "node:test";

import {JobFollower} from "#page/job_follow.js";
import {Kind} from "#page/job_journal.js";
import {JobLines} from "#page/job_lines.js";
import {JobLog} from "#page/job_log.js";
import {WampError} from "#page/wamp.js";

const table = Array.from({length: 256}, (_, index) => {
  let value = index;
  for (let bit = 0; bit < 8; bit += 1) value = value & 1 ? 0xedb88320 ^ (value >>> 1) : value >>> 1;
  return value >>> 0;
});

function frame(kind, payload) {
  const data = typeof payload === "string" ? payload : JSON.stringify(payload);
  const body = new TextEncoder().encode(data);
  const bytes = new Uint8Array(20 + body.length);
  const view = new DataView(bytes.buffer);
  view.setUint8(0, 0xc5);
  view.setUint8(1, kind);
  view.setUint32(4, body.length);
  view.setBigUint64(8, 1_700_000_000_000_000n);
  bytes.set(body, 20);
  let crc = 0xffffffff;
  for (const byte of [...bytes.subarray(0, 16), ...body])
    crc = table[(crc ^ byte) & 0xff] ^ (crc >>> 8);
  view.setUint32(16, (crc ^ 0xffffffff) >>> 0);
  return bytes;
}

// A daemon with one job: `records` are frames; `cuts` says after how many of them each attach ends.
class Daemon {
  state = "open";
  asked = [];
  watchers = new Set();

  constructor(records, faults = []) {
    this.records = [];
    this.faults = faults;
    let offset = 0;
    for (const frames of records) {
      this.records.push({offset, next_offset: offset + frames.length, frames});
      offset += frames.length;
    }
    this.endOffset = offset;
  }

  view() {
    return {job_id: "j", status: "running", journal: {start_offset: 0, end_offset: this.endOffset}};
  }

  onState(handler) {
    this.watchers.add(handler);
    return () => this.watchers.delete(handler);
  }

  come(state) {
    this.state = state;
    for (const handler of [...this.watchers]) handler(this);
  }

  async call(uri, kwargs, {onProgress, signal}) {
    if (uri === "cumulus.job.get") {
      if (this.missing) throw new WampError("not_found", "No such job");
      return this.view();
    }
    this.asked.push([kwargs.from_offset, kwargs.tail_bytes ?? null]);
    const fault = this.faults.shift();
    let begin = kwargs.from_offset;
    if (kwargs.tail_bytes !== undefined && this.endOffset - kwargs.tail_bytes > begin) {
      begin = this.records.findLast(
        (one) => one.offset <= this.endOffset - kwargs.tail_bytes,
      ).offset;
    }
    let sent = 0;
    for (const record of this.records) {
      if (record.offset < begin) continue;
      if (signal.aborted) throw new WampError("aborted", "given up");
      if (fault && sent === fault.after) {
        if (fault.state) this.come(fault.state);
        throw fault.error;
      }
      onProgress({event: "journal", ...record});
      sent += 1;
    }
    if (fault) throw fault.error;
    return {event: "end", job: {...this.view(), status: "completed"}};
  }
}

function follow(daemon, limits) {
  const log = new JobLog();
  const told = {views: 0, progress: [], interrupted: 0, ended: null, gone: null, failed: null};
  const follower = new JobFollower(
    daemon,
    "j",
    new JobLines(log),
    {
      view: () => {
        told.views += 1;
      },
      progress: (progress) => told.progress.push(progress),
      changed: () => {},
      interrupted: () => {
        told.interrupted += 1;
        setTimeout(() => daemon.come("open"), 20);
      },
      ended: (job) => {
        told.ended = job.status;
      },
      gone: (error) => {
        told.gone = error.message;
      },
      failed: (error) => {
        told.failed = error.message;
      },
    },
    limits,
  );
  const texts = () =>
    Array.from({length: log.length}, (_, index) => log.at(index)).map((row) =>
      row.kind === "line" ? row.line.text : `[${row.kind}: ${row.line.text}]`,
    );
  return {follower, told, texts};
}

const lines = (count, from = 0) =>
  Array.from({length: count}, (_, n) => frame(Kind.STDOUT, `line ${from + n}\n`));

test("a whole job is told to its end", async () => {
  const daemon = new Daemon([
    frame(Kind.STATUS, {phase: "setup", attempt: 1}),
    frame(Kind.SETUP, "Installed six\n"),
    frame(Kind.STATUS, {phase: "running", requirements: 1, cached: false, build_s: 1.25}),
    ...lines(2),
    frame(Kind.PROGRESS, {fraction: 7, message: ["x"]}),
    frame(Kind.EXIT, {outcome: "failed", message: "it broke"}),
  ]);
  const {follower, told, texts} = follow(daemon);
  await follower.follow();
  assert.deepEqual(texts(), [
    "Installed six",
    "[note: The environment of 1 requirement was made in 1.3 s; the code begins]",
    "line 0",
    "line 1",
    "[note: The code failed: it broke]",
  ]);
  assert.deepEqual(told.progress, [{fraction: 1, message: null}]);
  assert.equal(told.ended, "completed");
});

test("after a lost connection it goes on where it was, no line lost or doubled", async () => {
  const error = new WampError("disconnected", "lost");
  const daemon = new Daemon(lines(20), [
    {after: 7, error, state: "waiting"},
    {after: 0, error},
    {after: 5, error},
  ]);
  const {follower, told, texts} = follow(daemon);
  await follower.follow();
  assert.deepEqual(
    texts(),
    Array.from({length: 20}, (_, n) => `line ${n}`),
  );
  assert.equal(told.interrupted, 3);
  assert.equal(told.ended, "completed");
  assert.equal(daemon.asked.length, 4);
});

test("of a long journal begin and end are read, and what lies between is told", async () => {
  const daemon = new Daemon(lines(1000));
  const {follower, texts, told} = follow(daemon, {headBytes: 300, tailBytes: 600});
  await follower.follow();
  const all = texts();
  assert.ok(all.length > 25 && all.length < 45, `${all.length}`);
  assert.equal(all[0], "line 0");
  assert.equal(all.at(-1), "line 999");
  assert.equal(all.filter((text) => text.startsWith("[gap")).length, 1);
  assert.match(
    all.find((text) => text.startsWith("[gap")),
    /KiB of the job's journal are not shown here/,
  );
  assert.equal(daemon.asked[0][1], null);
  assert.equal(daemon.asked[1][1], 600);
  assert.equal(told.ended, "completed");
});

test("what a daemon lost with its power is void, and said", async () => {
  const records = lines(4);
  const goOn = records[0].length;
  const error = new WampError("invalid_argument", "inside a record", {
    details: {continue_from: goOn},
  });
  const daemon = new Daemon(records, [{after: 2, error}]);
  const {follower, texts} = follow(daemon);
  await follower.follow();
  const all = texts();
  assert.deepEqual(
    all.filter((text) => !text.startsWith("[")),
    ["line 0", "line 1", "line 1", "line 2", "line 3"],
  );
  assert.match(all[2], /lost its last output with its power/);
});

test("a job that isn't there is gone, another fault can be tried again", async () => {
  const daemon = new Daemon(lines(2));
  daemon.missing = true;
  const one = follow(daemon);
  await one.follower.follow();
  assert.equal(one.told.gone, "No such job");

  const other = follow(
    new Daemon(lines(3), [{after: 1, error: new WampError("internal", "disk")}]),
  );
  await other.follower.follow();
  assert.equal(other.told.failed, "disk");
  await other.follower.follow();
  assert.equal(other.told.ended, "completed");
  assert.deepEqual(other.texts(), ["line 0", "line 1", "line 2"]);
});

test("a damaged journal is told, and nothing is made up", async () => {
  const records = lines(3);
  records[1][21] ^= 1;
  const {follower, told, texts} = follow(new Daemon(records));
  await follower.follow();
  assert.match(told.failed, /damaged at offset/);
  assert.deepEqual(texts(), ["line 0"]);
});

test("who stops is told nothing more", async () => {
  const daemon = new Daemon(lines(3));
  daemon.state = "waiting";
  const {follower, told} = follow(daemon);
  const done = follower.follow();
  follower.stop();
  await done;
  assert.equal(told.views, 0);
});
