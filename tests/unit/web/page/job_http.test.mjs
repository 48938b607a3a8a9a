// Fetching a job's files: whole or not at all, and never more than a browser can hold.
import assert from "node:assert/strict";
import {test} from "node:test";

import {DOWNLOAD_MAX_BYTES, download, downloadCommand} from "#page/job_http.js";

const asked = [];
const saved = [];
let token = null;
globalThis.sessionStorage = {getItem: (key) => (key === "cumulus.token" ? token : null)};
globalThis.document = {
  createElement: () => ({
    click() {
      saved.push([this.download, this.href]);
    },
  }),
};
URL.createObjectURL = (blob) => `blob:${blob.size}`;
URL.revokeObjectURL = () => {};
const timers = globalThis.setTimeout;
globalThis.setTimeout = (call, delay) => timers(call, delay).unref();

// What is fetched next: pieces of so many bytes, or an error in place of one.
function answers(pieces, {status = 200, headers = {}, json = null} = {}) {
  globalThis.fetch = async (path, options) => {
    asked.push([path, options.headers]);
    const left = [...pieces];
    return {
      ok: status === 200,
      status,
      headers: new Headers(headers),
      json: async () => {
        if (json === null) throw new SyntaxError("no JSON");
        return json;
      },
      body: {
        getReader: () => ({
          read: async () => {
            const piece = left.shift();
            if (piece instanceof Error) throw piece;
            return piece === undefined ? {done: true} : {done: false, value: new Uint8Array(piece)};
          },
          cancel: async () => left.splice(0),
        }),
      },
    };
  };
}

const options = {byHand: "cumulus download job_1 big.bin", signal: null};

test("a file is fetched with the session's token and saved under its last name", async () => {
  token = "secret";
  answers([3, 4]);
  const counts = [];
  await download("/api/jobs/j/outputs/a/b.txt", "a/b.txt", {
    ...options,
    onBytes: (count) => counts.push(count),
  });
  assert.deepEqual(asked.at(-1), ["/api/jobs/j/outputs/a/b.txt", {Authorization: "Bearer secret"}]);
  assert.deepEqual(saved.pop(), ["b.txt", "blob:7"]);
  assert.deepEqual(counts, [3, 7]);
  token = null;
  answers([1]);
  await download("/x", "x", options);
  assert.deepEqual(asked.at(-1)[1], {});
  saved.pop();
});

test("what is too large is not fetched, and says how it can be had", async () => {
  answers([], {headers: {"Content-Length": String(DOWNLOAD_MAX_BYTES + 1)}});
  await assert.rejects(download("/x", "big.bin", options), (error) => {
    assert.match(error.message, /big\.bin is larger than the 256 MiB/);
    assert.equal(error.hint, "Fetch it with: cumulus download job_1 big.bin");
    return true;
  });
  // Its length was not told before.
  answers(Array.from({length: 5}, () => DOWNLOAD_MAX_BYTES / 4));
  await assert.rejects(download("/x", "big.bin", options), /is larger than/);
  assert.deepEqual(saved, []);
});

test("what is refused or cut is told, and nothing of it is saved", async () => {
  answers([], {status: 404, json: {message: "history took it", hint: "run it again"}});
  await assert.rejects(download("/x", "gone.txt", options), {
    message: "gone.txt: history took it",
    hint: "run it again",
  });
  answers([], {status: 502});
  await assert.rejects(download("/x", "f", options), {message: "f: HTTP status 502"});
  answers([10, new TypeError("network error")]);
  await assert.rejects(download("/x", "f", options), /f came only in part: network error/);
  assert.deepEqual(saved, []);
});

test("the command to copy takes a hostile name for a name", () => {
  assert.equal(downloadCommand("job_1", "a/b.txt"), "cumulus download job_1 a/b.txt");
  assert.equal(downloadCommand("job_1", "-o.ssh"), "cumulus download -- job_1 -o.ssh");
  assert.equal(
    downloadCommand("job_1", "x; $(reboot) 'y"),
    String.raw`cumulus download job_1 'x; $(reboot) '\''y'`,
  );
});
