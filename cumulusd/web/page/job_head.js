// The head of a job's page: what it is, how it is, what it has, how long yet.

import {h, fill, setText} from "./dom.js";
import {bytes, duration, hasEnded, moment, title} from "./format.js";
import {progressBar, stateBadge, timeLeftWords} from "./jobrow.js";
import {secondsWords, shareWords, whyWords} from "./job_words.js";

const COPIED_MS = 2_000;

// `announce(text)`: for screen readers. `update(job, now)` with `now` in unix seconds, as often as
// its clock is to tick.
export function jobHead(announce) {
  const name = h("h1", {}, h("bdi", {}));
  const id = h("code", {class: "job-id"});
  const copied = h("span", {class: "quiet", role: "status"});
  const copy = h(
    "button",
    {
      type: "button",
      class: "plain",
      "aria-label": "Copy the job's id",
      onclick: () => copyText(id, copied, announce),
    },
    "Copy",
  );
  const badge = stateBadge();
  const why = h("span", {class: "job-why"});
  const progress = progressBar();
  const facts = h("dl", {class: "facts"});
  let shown = "";
  return {
    element: h(
      "header",
      {class: "job-head"},
      h("div", {class: "job-title"}, name, h("p", {class: "job-name"}, id, copy, copied)),
      h("p", {class: "job-state"}, badge.element, why),
      progress.element,
    ),
    facts,
    update(job, now) {
      setText(name.firstChild, title(job));
      setText(id, job.job_id);
      badge.update(job);
      setText(why, whyWords(job));
      progress.update(job);
      const told = factsOf(job, now);
      const key = JSON.stringify(told);
      if (key === shown) return;
      shown = key;
      fill(
        facts,
        told.map(([term, text, note]) =>
          h(
            "div",
            {},
            h("dt", {}, term),
            h("dd", {}, h("bdi", {}, text), note && h("span", {class: "note"}, note)),
          ),
        ),
      );
    },
  };
}

// [term, text, note]: only what is known.
function factsOf(job, now) {
  const {partition} = job;
  const ran =
    job.started_at === null
      ? null
      : (job.ran_s || 0) + Math.max(0, (job.completed_at ?? now) - job.started_at);
  const left = timeLeftWords(job, now);
  const place = partition && `${bytes(partition.gpu_memory_bytes)} of ${partition.device_name}`;
  const facts = [
    [
      "Time left",
      hasEnded(job) ? "" : left.replace(/ left$/, ""),
      `of ${duration(job.duration_s)}`,
    ],
    [
      "Code ran",
      hasEnded(job) && ran !== null ? secondsWords(ran) : "",
      `of ${duration(job.duration_s)} granted`,
    ],
    ["Owner", job.owner, null],
    [
      "Worker",
      job.worker?.hostname ?? "",
      job.worker && job.worker.node_id !== job.worker.hostname ? job.worker.node_id : null,
    ],
    ["Submitted", moment(job.created_at, now), null],
    ["Code began", job.started_at === null ? "" : moment(job.started_at, now), null],
    ["Ended", job.completed_at === null ? "" : moment(job.completed_at, now), null],
    [
      "Attempt",
      job.retries > 0 || job.attempt > 1 ? `${job.attempt} of up to ${job.retries + 1}` : "",
      null,
    ],
    ["Share", shareWords(job.units), place],
    ["Held by", partition?.tier ?? "", partition?.tier_note],
    ["Secrets", job.secret_names.join(", "), "names only: their values are never told"],
  ];
  return facts.filter(([, text]) => text !== "");
}

async function copyText(element, told, announce) {
  let done = false;
  try {
    await navigator.clipboard.writeText(element.textContent);
    done = true;
  } catch {
    // Not allowed, or no secure connection: marked, for the reader to copy.
    getSelection().selectAllChildren(element);
  }
  const words = done ? "Copied" : "Marked: press Ctrl+C";
  setText(told, words);
  announce(words);
  setTimeout(() => setText(told, ""), COPIED_MS);
}
