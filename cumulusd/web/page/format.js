// Numbers and times as people read them. Pure.

const BINARY = ["B", "KiB", "MiB", "GiB", "TiB"];

// 1610612736 -> "1.5 GiB"
export function bytes(count) {
  let value = count, unit = 0;
  while (value >= 1024 && unit < BINARY.length - 1) {
    value /= 1024;
    unit += 1;
  }
  const digits = unit === 0 || value >= 100 ? 0 : 1;
  return `${value.toFixed(digits).replace(/\.0$/, "")} ${BINARY[unit]}`;
}

// Seconds -> "8 s", "4 min 05 s", "3 h 20 min", "2 d 4 h"
export function duration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${pad(whole % 60)} s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${pad(Math.floor(whole / 60) % 60)} min`;
  return `${Math.floor(whole / 86400)} d ${Math.floor(whole / 3600) % 24} h`;
}

function pad(number) {
  return String(number).padStart(2, "0");
}

// Unix seconds -> "14:03:22" today, else "2 Mar 14:03" (in the reader's own time)
export function moment(unixSeconds, now = Date.now() / 1000) {
  const at = new Date(unixSeconds * 1000), today = new Date(now * 1000);
  const time = `${pad(at.getHours())}:${pad(at.getMinutes())}`;
  if (at.toDateString() === today.toDateString()) return `${time}:${pad(at.getSeconds())}`;
  const day = at.toLocaleDateString("en-GB", {day: "numeric", month: "short"});
  const year = at.getFullYear() === today.getFullYear() ? "" : ` ${at.getFullYear()}`;
  return `${day}${year} ${time}`;
}

// 0.5 -> "50 %", 0.125 -> "12.5 %"
export function percent(fraction) {
  return `${Number((fraction * 100).toFixed(1))} %`;
}

// How long a job's code may still run, in seconds; null when it isn't running.
export function timeLeft(job, now = Date.now() / 1000) {
  if (job.status !== "running" || job.started_at === null) return null;
  return job.duration_s - (job.ran_s || 0) - (now - job.started_at);
}

// Words for the state of a job, and the sign that stands beside them (never colour alone).
export const STATES = {
  pending: {sign: "◌", word: "waiting"},
  starting: {sign: "◔", word: "starting"},
  running: {sign: "▶", word: "running"},
  paused: {sign: "❚❚", word: "paused"},
  completed: {sign: "✓", word: "completed"},
  failed: {sign: "✕", word: "failed"},
  timeout: {sign: "◷", word: "timed out"},
  cancelled: {sign: "⊘", word: "cancelled"},
};
export const ENDED = ["completed", "failed", "timeout", "cancelled"];

export function hasEnded(job) {
  return ENDED.includes(job.status);
}

// What a job is called: its name, else its id.
export function title(job) {
  return job.name || job.job_id;
}
