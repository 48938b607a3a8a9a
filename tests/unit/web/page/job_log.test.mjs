// Bytes of a job's streams to rows of its log, and what is found there.
import assert from "node:assert/strict";
import {test} from "node:test";

import {JobLines, MAX_LINE_CHARS} from "#page/job_lines.js";
import {JobLog} from "#page/job_log.js";
import {LogSearch, MAX_MATCHES} from "#page/job_search.js";
import {Utf8Decoder} from "#page/job_utf8.js";

const encoder = new TextEncoder();

function rows(log) {
  return Array.from({length: log.length}, (_, index) => log.at(index));
}

function texts(log) {
  return rows(log).map((row) =>
    row.kind === "dropped" ? `<${row.count} dropped>` : row.line.text,
  );
}

// What stands there after these pieces, each a text or bytes, of one stream.
function shown(...pieces) {
  const log = new JobLog();
  const lines = new JobLines(log);
  for (const piece of pieces) {
    lines.feed(
      "stdout",
      typeof piece === "string" ? encoder.encode(piece) : Uint8Array.from(piece),
      5,
    );
  }
  lines.end();
  return log;
}

test("text that is cut anywhere reads as if it were whole", () => {
  const bytes = encoder.encode("aé€😀\ud7ff\ufeffz\n");
  for (let size = 1; size < bytes.length; size += 1) {
    const decoder = new Utf8Decoder();
    let text = "";
    for (let at = 0; at < bytes.length; at += size)
      text += decoder.decode(bytes.subarray(at, at + size));
    assert.equal(text + decoder.end(), "aé€😀\ud7ff\ufeffz\n", `pieces of ${size}`);
  }
});

test("invalid bytes are shown, and nothing beside them is lost", () => {
  assert.deepEqual(texts(shown([0x61, 0xff, 0x62, 0xc3, 0x0a])), ["a\\xffb\\xc3"]);
  // Overlong, a surrogate, beyond Unicode, a continuation alone, cut at the end.
  assert.deepEqual(texts(shown([0xc0, 0xaf])), ["\\xc0\\xaf"]);
  assert.deepEqual(texts(shown([0xed, 0xa0, 0x80])), ["\\xed\\xa0\\x80"]);
  assert.deepEqual(texts(shown([0xf4, 0x90, 0x80, 0x80])), ["\\xf4\\x90\\x80\\x80"]);
  assert.deepEqual(texts(shown([0x80], [0xe2, 0x82])), ["\\x80\\xe2\\x82"]);
  assert.deepEqual(texts(shown([0xf0], [0x9f], [0x98], [0x80])), ["😀"]);
  assert.equal(rows(shown([0x61, 0xff, 0x62]))[0].line.runs[1][1], "log-escaped");
});

test("random bytes decode the same in any pieces", () => {
  let seed = 1;
  const random = (below) => {
    seed = (seed * 1103515245 + 12345) % 2147483648;
    return Math.floor((seed / 2147483648) * below);
  };
  for (let round = 0; round < 300; round += 1) {
    const bytes = Uint8Array.from(
      {length: 40},
      () => [0x61, 0xc3, 0xa9, 0xe2, 0x82, 0xac, 0xf0, 0x9f, 0x98, 0xff][random(10)],
    );
    const whole = new Utf8Decoder();
    const expected = whole.decode(bytes) + whole.end();
    const pieces = new Utf8Decoder();
    let text = "";
    for (let at = 0; at < bytes.length;) {
      const next = at + 1 + random(5);
      text += pieces.decode(bytes.subarray(at, next));
      at = next;
    }
    assert.equal(text + pieces.end(), expected);
  }
});

test("streams keep their own lines, in the order in which these began", () => {
  const log = new JobLog();
  const lines = new JobLines(log);
  lines.feed("stdout", encoder.encode("one "), 1);
  lines.feed("stderr", encoder.encode("warning\n"), 2);
  lines.feed("stdout", encoder.encode("line\ntwo\n"), 3);
  assert.deepEqual(
    rows(log).map((row) => [row.stream, row.line.text, row.timeMs]),
    [
      ["stdout", "one line", 1],
      ["stderr", "warning", 2],
      ["stdout", "two", 3],
    ],
  );
});

test("a carriage return writes over its line", () => {
  assert.deepEqual(texts(shown("10%\r", "20%\r100%", "\n")), ["100%"]);
  assert.deepEqual(texts(shown("long text\rshort\n")), ["shorttext"]);
  assert.deepEqual(texts(shown("long text\r\x1b[Kshort\n")), ["short"]);
  assert.deepEqual(texts(shown("a\r\nb\r\n")), ["a", "b"]);
  assert.deepEqual(texts(shown("ab\bc\n")), ["ac"]);
  assert.deepEqual(texts(shown("\n\n")), ["", ""]);
});

test("colours become classes, also cut anywhere", () => {
  const text = "\x1b[1;31mred\x1b[0m plain \x1b[38;5;46mgreen\x1b[39m\x1b[44mb\x1b[m\n";
  const whole = rows(shown(text))[0].line;
  assert.equal(whole.text, "red plain greenb");
  assert.deepEqual(whole.runs, [
    [0, "ansi-fg-1 ansi-bold"],
    [3, ""],
    [10, "ansi-fg-10"],
    [15, "ansi-bg-4"],
  ]);
  const pieces = rows(shown(...text))[0].line;
  assert.deepEqual([pieces.text, pieces.runs], [whole.text, whole.runs]);
});

test("what is written over keeps its place's style", () => {
  const {text, runs} = rows(shown("\x1b[32m##########\x1b[0m\rab\n"))[0].line;
  assert.deepEqual(
    [text, runs],
    [
      "ab########",
      [
        [0, ""],
        [2, "ansi-fg-2"],
      ],
    ],
  );
});

test("other escapes are dropped, and hide nothing behind their line", () => {
  assert.deepEqual(
    texts(shown("\x1b[2J\x1b[5;5Ha\x1b(Bb\x1b]0;title\x07c\x1b]8;;http://x\x1b\\d\x1b7e\n")),
    ["abcde"],
  );
  assert.deepEqual(texts(shown("a\x1b]0;never ends\nb\x1b[12\nc\n")), ["a", "b", "c"]);
  assert.deepEqual(texts(shown("a\x1b[999999999999mb\x1b[38;5mc\x1b[38;2;1mdé\x1b[é\n")), [
    "abcdéé",
  ]);
  assert.deepEqual(texts(shown("\x07\x00a\x01\x7f\u009b\n")), ["a\\x01\\x7f\\x9b"]);
});

test("what would turn the direction of text is written out", () => {
  assert.deepEqual(texts(shown("a\u202eb\u2066\n")), ["a\\u202eb\\u2066"]);
  assert.deepEqual(texts(shown("😀\ud83c\udc80\n")), ["😀🂀"]); // whose half looks like an invalid byte
});

test("a long line goes on in rows of its own", () => {
  const log = shown("x".repeat(2 * MAX_LINE_CHARS + 5), "\nnext\n");
  assert.deepEqual(
    texts(log).map((text) => text.length),
    [MAX_LINE_CHARS, MAX_LINE_CHARS, 5, 4],
  );
  assert.deepEqual(
    rows(log).map((row) => row.goesOn),
    [false, true, true, false],
  );
  const split = texts(shown("x".repeat(MAX_LINE_CHARS - 1) + "😀\n"));
  assert.equal(split[1], "😀");
});

test("of many lines begin and end are kept, and what is left out is counted", () => {
  const log = new JobLog({headRows: 10, tailRows: 20});
  const lines = new JobLines(log);
  for (let number = 0; number < 50000; number += 1)
    lines.feed("stdout", encoder.encode(`line ${number}\n`), 0);
  const all = texts(log);
  assert.equal(log.length, 31);
  assert.equal(log.total, 50000);
  assert.deepEqual(
    [all[0], all[9], all[10], all[11], all[30]],
    ["line 0", "line 9", "<49970 dropped>", "line 49980", "line 49999"],
  );
  assert.equal(log.byId(49985).line.text, "line 49985");
  assert.equal(log.byId(100), undefined);
  assert.equal(log.at(log.indexOf(49985)).id, 49985);
  assert.equal(log.at(log.indexOf(100)).kind, "dropped");
  for (let index = 0; index < log.length; index += 1) {
    const row = log.at(index);
    assert.equal(log.idAt(index, log.dropped), row.kind === "dropped" ? null : row.id);
  }
  assert.equal(log.idAt(12, 0), 12); // as it was before anything was dropped
  assert.equal(log.idAt(log.length, log.dropped), null);
});

test("long rows count by their characters", () => {
  const log = new JobLog({headRows: 1, tailRows: 1000, tailChars: 10000});
  const lines = new JobLines(log);
  for (let number = 0; number < 100; number += 1)
    lines.feed("stdout", encoder.encode("y".repeat(1000) + "\n"), 0);
  assert.ok(log.length < 15, `${log.length} rows`);
  assert.equal(log.total, 100);
});

test("a progress bar that many lines came behind goes on at the end", () => {
  const log = new JobLog({headRows: 1, tailRows: 5});
  const lines = new JobLines(log);
  lines.feed("stdout", encoder.encode("head\n"), 0);
  lines.feed("stderr", encoder.encode("1%\r"), 0);
  for (let number = 0; number < 20; number += 1)
    lines.feed("stdout", encoder.encode(`${number}\n`), 0);
  assert.ok(!texts(log).includes("1%"));
  lines.feed("stderr", encoder.encode("99%\r"), 0);
  lines.feed("stderr", encoder.encode("100%\n"), 0);
  assert.equal(texts(log).at(-1), "100%");
});

test("all matches are found, in order and around the ends", () => {
  const log = shown("Error a error\nnothing\nERROR\n");
  const search = new LogSearch(log);
  search.find("error");
  assert.equal(search.count, 3);
  assert.deepEqual(search.inRow(0), [
    [0, 5],
    [8, 13],
  ]);
  let at = search.step({id: 0, nth: -1}, 1);
  const seen = [];
  for (let number = 0; number < 4; number += 1) {
    seen.push([at.id, at.nth, at.number]);
    at = search.step(at, 1);
  }
  assert.deepEqual(seen, [
    [0, 0, 1],
    [0, 1, 2],
    [2, 0, 3],
    [0, 0, 1],
  ]);
  assert.deepEqual(search.step({id: 0, nth: 0}, -1), {id: 2, nth: 0, number: 3});
  assert.deepEqual(search.step({id: 1, nth: -1}, -1), {id: 0, nth: 1, number: 2});
  search.find("a.*[");
  assert.equal(search.count, 0);
  assert.equal(search.step({id: 0, nth: 0}, 1), null);
  search.find("");
  assert.ok(!search.isActive);
});

test("a search follows a growing, changing, dropping log", () => {
  const log = new JobLog({headRows: 2, tailRows: 10});
  const lines = new JobLines(log);
  const search = new LogSearch(log);
  search.find("hit");
  const grow = (text, stream = "stdout") => {
    lines.feed(stream, encoder.encode(text), 0);
    search.update(log.takeChanged());
  };
  grow("hit 0\n");
  grow("bar", "stderr");
  grow("hit 1\n");
  assert.equal(search.count, 2);
  grow("\rhit", "stderr");
  assert.equal(search.count, 3);
  assert.deepEqual(search.step({id: 0, nth: 0}, 1), {id: 1, nth: 0, number: 2});
  grow("\rgone", "stderr");
  assert.equal(search.count, 2);
  for (let number = 2; number < 100; number += 1) grow(`hit ${number}\n`);
  const expected = texts(log).filter((text) => text.startsWith("hit")).length;
  assert.equal(search.count, expected);
  assert.equal(search.again({id: 5, nth: 0}), null);
  assert.equal(search.again({id: log.total - 1, nth: 0}).number, expected);
});

test("there is an end to matches", () => {
  const log = new JobLog();
  const lines = new JobLines(log);
  for (let number = 0; number < 60; number += 1)
    lines.feed("stdout", encoder.encode("a".repeat(3000) + "\n"), 0);
  const search = new LogSearch(log);
  search.find("a");
  assert.equal(search.count, MAX_MATCHES);
  assert.ok(search.isFull);
});

test("a million lines cost little", () => {
  const log = new JobLog();
  const lines = new JobLines(log);
  const chunk = encoder.encode(
    Array.from({length: 1000}, (_, n) => `step ${n} loss 0.123 and more\n`).join(""),
  );
  for (let number = 0; number < 1000; number += 1) lines.feed("stdout", chunk, 0);
  assert.equal(log.total, 1000000);
  assert.ok(log.length < 56000);
});
