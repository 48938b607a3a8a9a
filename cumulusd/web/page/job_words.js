// What a job's page says in words, and what one may do to it there. Pure.

import {duration, hasEnded} from "./format.js";

// Why it ended, as EndReason of cumulus_wire/codes.py has it.
const REASONS = {
  user_error: "the code raised an exception",
  exit_code: "the code left with an exit code",
  signalled: "the code's process was killed by a signal",
  out_of_memory: "out of memory",
  disk_full: "the disk is full",
  process_limit: "too many processes",
  result_invalid: "its value can't be brought back",
  requirements_failed: "its requirements can't be installed",
  setup_timeout: "setting up took too long",
  package_invalid: "its package is damaged",
  entry_point_missing: "its code has no such entry point",
  runner_failed: "its runner failed",
  duration_exceeded: "its time was up",
  queue_timeout: "it waited too long",
  cancelled_by_user: "cancelled by hand",
  worker_lost: "its worker was lost",
  worker_drained: "its worker was drained",
  device_lost: "its device was lost",
  image_missing: "the image is missing",
  unschedulable: "no place can be found for it",
  partition_failed: "its share could not be held",
  launch_failed: "its container can't be started",
  checkpoint_lost: "what it kept is lost",
  journal_corrupt: "its journal is damaged",
};

const PHASES = {
  queued: "Waiting",
  preparing: "Preparing the share",
  launching: "Launching",
  setup: "Setting up",
  running: "Running",
  paused: "Paused",
  ending: "Clearing up",
};

// A reason in words; one that this page doesn't know yet as it is.
export function reasonWords(reason) {
  return reason === null ? "" : (REASONS[reason] ?? reason.replaceAll("_", " "));
}

// Why the job is in its state, in a sentence; "" where the state says it all.
export function whyWords(job) {
  if (job.end) return job.end.reason === null ? "" : reasonWords(job.end.reason);
  if (job.wait?.message) return job.wait.message;
  if (job.pause_requested && job.status !== "paused") return "it pauses when its code comes to it";
  return "";
}

// What this session may ask of the job now. A viewer may do nothing; whom the daemon shows a job
// as `client` owns it.
export function actionsFor(job, role) {
  const may = role === "admin" || role === "client";
  if (!may || hasEnded(job)) return {cancel: false, pause: false, resume: false};
  const pauses = job.status === "paused" || job.pause_requested;
  return {cancel: true, pause: !pauses, resume: pauses};
}

// The stages of the job as `[{phase, word, begin, end, attempt}]`, in unix seconds; `end` is null
// for the one that lasts. Without a timeline what its record tells.
export function stagesOf(job) {
  const moments = job.timeline?.length ? job.timeline : guessed(job);
  const stages = [];
  moments.forEach(({phase, at, attempt}, index) => {
    if (phase === "ended") return;
    const next = moments[index + 1];
    stages.push({
      phase,
      word: PHASES[phase] ?? phase,
      begin: at,
      end: next ? next.at : null,
      attempt,
    });
  });
  return stages;
}

function guessed(job) {
  const moments = [{phase: "queued", at: job.created_at, attempt: 1}];
  if (job.started_at !== null)
    moments.push({phase: "running", at: job.started_at, attempt: job.attempt});
  if (job.completed_at !== null)
    moments.push({phase: "ended", at: job.completed_at, attempt: job.attempt});
  return moments;
}

// How long a stage lasted, or lasts.
export function spanWords(stage, nowS) {
  return secondsWords(Math.max(0, (stage.end ?? nowS) - stage.begin));
}

// Seconds in words, exact where they are few.
export function secondsWords(seconds) {
  if (seconds < 0.9995) return `${Math.round(seconds * 1000)} ms`;
  return seconds < 9.95 ? `${seconds.toFixed(1)} s` : duration(seconds);
}

// How wide each stage is drawn, in parts of 1: by its time, yet none too small to be seen.
export function widthsOf(stages, nowS, least = 0.02) {
  const spans = stages.map((stage) => Math.max(0, (stage.end ?? nowS) - stage.begin));
  const total = spans.reduce((sum, span) => sum + span, 0);
  const wanted = spans.map((span) => Math.max(least, total > 0 ? span / total : 1 / spans.length));
  const sum = wanted.reduce((one, other) => one + other, 0);
  return wanted.map((width) => width / sum);
}

// A share in words: "25 % of a GPU (2500 of 10000 units)".
export function shareWords(units) {
  return `${Number((units / 100).toFixed(2))} % of a device (${units} of 10,000 units)`;
}
