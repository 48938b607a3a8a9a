// Addresses, and numbers and times as people read them.
import assert from "node:assert/strict";
import {test} from "node:test";

import {bytes, duration, moment, percent, timeLeft, title} from "#page/format.js";
import {waitWords} from "#page/jobrow.js";
import {href, match, parse} from "#page/router.js";
import {decodeBytes} from "#page/wamp.js";
import {workerSummary} from "#page/workers.js";

test("what an address says comes back from it", () => {
  const link = href(["jobs", "a/b?c#d"], {q: "x & y=z", state: "", owner: null});
  assert.equal(link, "#/jobs/a%2Fb%3Fc%23d?q=x+%26+y%3Dz");
  assert.deepEqual(parse(link), {
    path: "/jobs/a%2Fb%3Fc%23d", parts: ["jobs", "a/b?c#d"], query: {q: "x & y=z"},
  });
  assert.deepEqual(parse("").parts, []);
  assert.deepEqual(parse("#/jobs/100%").parts, ["jobs", "100%"]); // typed by hand
  assert.deepEqual(match(["jobs", ":jobId"], ["jobs", "a"]), {jobId: "a"});
  assert.equal(match(["jobs"], ["jobs", "a"]), null);
  assert.equal(match(["jobs", ":jobId"], ["workers", "a"]), null);
});

test("bytes, shares and durations", () => {
  assert.deepEqual([0, 1023, 1024, 1536, 1 << 30, 200 * 2 ** 30, 2 ** 50].map(bytes),
    ["0 B", "1023 B", "1 KiB", "1.5 KiB", "1 GiB", "200 GiB", "1024 TiB"]);
  assert.deepEqual([0.5, 0.125, 1, 0].map(percent), ["50 %", "12.5 %", "100 %", "0 %"]);
  assert.deepEqual([-3, 8.4, 59.6, 245, 12_000, 187_200].map(duration),
    ["0 s", "8 s", "1 min 00 s", "4 min 05 s", "3 h 20 min", "2 d 4 h"]);
});

test("moments are of the reader's own day", () => {
  const noon = new Date(2026, 4, 7, 12, 3, 4).getTime() / 1000;
  assert.equal(moment(noon, noon + 60), "12:03:04");
  assert.equal(moment(noon, noon + 86_400), "7 May 12:03");
  assert.equal(moment(noon, noon + 400 * 86_400), "7 May 2026 12:03");
});

test("what is left counts code time of all attempts, and only while it runs", () => {
  const job = {status: "running", started_at: 100, duration_s: 60, ran_s: 10};
  assert.equal(timeLeft(job, 130), 20);
  assert.equal(timeLeft({...job, status: "paused"}, 130), null);
  assert.equal(timeLeft({...job, started_at: null}, 130), null);
  assert.equal(title({name: "", job_id: "j"}), "j");
});

test("a wait is told in a line, and whole where a line would hide something", () => {
  const largest = {hostname: "w1", units_free: 1750, units_total: 10_000};
  const wait = {reason: "no_free_share", message: "whole", details: {largest_free: largest}};
  assert.equal(waitWords({wait}, 0), "17.5 % is the largest free share, on w1");
  assert.equal(waitWords({wait: {...wait, details: {largest_free: null}}}, 0), "no share is free");
  const behind = {...wait, reason: "behind_others"};
  assert.match(waitWords({wait: behind}, 0), /held for jobs ahead$/);
  for (const more of [{pinned: {}}, {unfit: [{}]}, {faulty: [{}]}]) {
    assert.equal(waitWords({wait: {...wait, details: {...wait.details, ...more}}}, 0), "whole");
  }
  assert.equal(waitWords({wait: {...wait, reason: "no_place"}}, 0), "whole");
  assert.equal(waitWords({wait: null}, 0), "");
});

test("bytes in WAMP's JSON", () => {
  assert.deepEqual([...decodeBytes("\u0000aGn/")], [0x68, 0x69, 0xff]);
  assert.equal(decodeBytes("aGk="), null);
});

test("the pool in a line", () => {
  const device = {memory_bytes: 2 ** 34, units_total: 10_000, units_free: 5_000};
  const workers = [{usable: true, devices: [device, device]}, {usable: false, devices: []}];
  assert.equal(workerSummary(workers),
    "1 of 2 workers take jobs · 2 devices · 16 GiB of 32 GiB free");
  assert.equal(workerSummary([]), "0 of 0 workers take jobs · 0 devices");
});
