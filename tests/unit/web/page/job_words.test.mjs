// What a job's page says.
import assert from "node:assert/strict";
import {test} from "node:test";

import {jobPath} from "#page/job_http.js";
import {layOut} from "#page/job_json.js";
import {
  actionsFor,
  reasonWords,
  secondsWords,
  stagesOf,
  whyWords,
  widthsOf,
} from "#page/job_words.js";

test("only who may is offered anything, and only what can be done", () => {
  const running = {status: "running", pause_requested: false};
  assert.deepEqual(actionsFor(running, "admin"), {cancel: true, pause: true, resume: false});
  assert.deepEqual(actionsFor(running, "client"), {cancel: true, pause: true, resume: false});
  assert.deepEqual(actionsFor(running, "viewer"), {cancel: false, pause: false, resume: false});
  assert.deepEqual(actionsFor({...running, pause_requested: true}, "admin"), {
    cancel: true,
    pause: false,
    resume: true,
  });
  assert.deepEqual(actionsFor({status: "paused", pause_requested: false}, "client"), {
    cancel: true,
    pause: false,
    resume: true,
  });
  assert.deepEqual(actionsFor({status: "failed", pause_requested: false}, "admin"), {
    cancel: false,
    pause: false,
    resume: false,
  });
});

test("why a job is as it is", () => {
  assert.equal(
    whyWords({end: {reason: "user_error"}, status: "failed"}),
    "the code raised an exception",
  );
  assert.equal(whyWords({end: {reason: null}, status: "completed"}), "");
  assert.equal(
    whyWords({end: null, wait: {message: "position 2 of 3"}, status: "pending"}),
    "position 2 of 3",
  );
  assert.equal(
    whyWords({end: null, wait: null, status: "running", pause_requested: true}),
    "it pauses when its code comes to it",
  );
  assert.equal(reasonWords("a_new_one"), "a new one");
});

test("stages last until the next one begins", () => {
  const job = {
    timeline: [
      {phase: "queued", at: 10, attempt: 1},
      {phase: "running", at: 12.5, attempt: 1},
      {phase: "ending", at: 20, attempt: 1},
      {phase: "ended", at: 21, attempt: 1},
    ],
  };
  assert.deepEqual(
    stagesOf(job).map(({phase, begin, end}) => [phase, begin, end]),
    [
      ["queued", 10, 12.5],
      ["running", 12.5, 20],
      ["ending", 20, 21],
    ],
  );
  const live = stagesOf({timeline: job.timeline.slice(0, 2)});
  assert.equal(live[1].end, null);
  const old = stagesOf({
    timeline: null,
    created_at: 1,
    started_at: 3,
    completed_at: null,
    attempt: 1,
  });
  assert.deepEqual(
    old.map(({phase, end}) => [phase, end]),
    [
      ["queued", 3],
      ["running", null],
    ],
  );
});

test("each stage is wide enough to be seen, and together they fill the bar", () => {
  const stages = [
    {begin: 0, end: 0.001},
    {begin: 0.001, end: 100},
    {begin: 100, end: null},
  ];
  const widths = widthsOf(stages, 100);
  assert.ok(Math.abs(widths.reduce((one, other) => one + other) - 1) < 1e-9);
  assert.ok(widths[0] > 0.01 && widths[2] > 0.01 && widths[1] > 0.9);
  assert.deepEqual(widthsOf([{begin: 5, end: null}], 5), [1]);
});

test("few seconds are exact", () => {
  assert.deepEqual([0, 0.0184, 1, 9.94, 12.3, 125].map(secondsWords), [
    "0 ms",
    "18 ms",
    "1.0 s",
    "9.9 s",
    "12 s",
    "2 min 05 s",
  ]);
});

test("JSON is laid out as it is, whatever its numbers", () => {
  const text = '{"a":[1,{}, [] ],"big":12345678901234567890,"nan":NaN,"s":"{\\"x\\": [,]}"}';
  assert.equal(
    layOut(text, 1000).text,
    `{
  "a": [
    1,
    {},
    []
  ],
  "big": 12345678901234567890,
  "nan": NaN,
  "s": "{\\"x\\": [,]}"
}`,
  );
  assert.equal(layOut('"a\\\\"', 10).text, '"a\\\\"');
  for (const hostile of ['{"a', "[[[[", "}}]]", '"\\', "{".repeat(100000)]) layOut(hostile, 500);
  const cut = layOut(`[${"1,".repeat(10000)}1]`, 100);
  assert.ok(cut.isCut && cut.text.length === 100);
  assert.ok(!layOut("[1]", 100).isCut);
});

test("a name is one path, whatever is in it", () => {
  assert.equal(
    jobPath("job_1", "outputs", "a b/ü?#.txt"),
    "/api/jobs/job_1/outputs/a%20b/%C3%BC%3F%23.txt",
  );
});
