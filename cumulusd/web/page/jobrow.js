// What a job looks like in a list: its state, its name as a link, its wait, its progress.

import {h, setAttribute, setText} from "./dom.js";
import {STATES, duration, moment, percent, timeLeft, title} from "./format.js";
import {href} from "./router.js";

// The badge of a state: a sign, a word, a colour. `update(job)` keeps it true.
export function stateBadge() {
  const sign = h("span", {"aria-hidden": "true"});
  const word = h("span", {});
  const element = h("span", {class: "state"}, sign, word);
  return {
    element,
    update(job) {
      const state = STATES[job.status] ?? {sign: "?", word: job.status};
      setText(sign, state.sign);
      setText(word, job.pause_requested && job.status === "running" ? "pausing" : state.word);
      setAttribute(element, "data-state", job.status);
    },
  };
}

// The link to a job's page, with its id beside a name.
export function jobLink(job) {
  return h("a", {class: "job", href: href(["jobs", job.job_id]), title: job.job_id},
    h("bdi", {}, title(job)));
}

// How far the code says it is: a bar with the code's own words.
export function progressBar() {
  const fill = h("span", {});
  const bar = h("div", {class: "progress", role: "progressbar", "aria-valuemin": "0",
    "aria-valuemax": "100"}, fill);
  const words = h("span", {class: "progress-words"});
  const element = h("div", {class: "progress-line"}, bar, words);
  return {
    element,
    update(job) {
      const {progress} = job;
      const known = typeof progress?.fraction === "number";
      element.hidden = !progress;
      if (!progress) return;
      bar.hidden = !known;
      if (known) {
        const whole = Math.round(progress.fraction * 100);
        setAttribute(bar, "aria-valuenow", whole);
        setAttribute(bar, "aria-label", `Progress of ${title(job)}`);
        setAttribute(bar, "aria-valuetext", `${whole} %${progress.message ? `, ${progress.message}` : ""}`);
        fill.style.width = `${progress.fraction * 100}%`;
      }
      const message = progress.message || "";
      setText(words, known ? [percent(progress.fraction), message].filter(Boolean).join(" · ") : message);
    },
  };
}

// What is left of its duration, in words, by the daemon's clock; "" when its code doesn't run.
export function timeLeftWords(job, now) {
  const left = timeLeft(job, now);
  if (left === null) return job.status === "paused" ? "paused" : "";
  return left > 0 ? `${duration(left)} left` : "time is up";
}

// Why it waits, in a line; "" when it doesn't. The job's page has the daemon's whole sentence.
export function waitWords(job, now) {
  if (!job.wait) return "";
  const {reason, message, details} = job.wait;
  if (!["no_free_share", "behind_others"].includes(reason) || details.unfit?.length ||
      details.faulty?.length || details.pinned) return message;
  const {largest_free: largest, frees_by: freesBy} = details;
  const words = [largest && largest.units_free > 0
    ? `${percent(largest.units_free / largest.units_total)} is the largest free share, on ${largest.hostname}`
    : "no share is free"];
  if (reason === "behind_others") words.push("it is held for jobs ahead");
  else if (freesBy) words.push(`enough frees by ${moment(freesBy, now)} at the latest`);
  return words.join("; ");
}
