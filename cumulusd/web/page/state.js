// What the page knows of the daemon now: workers, the jobs that have not ended, and counts.
// Bounded: it asks for what can be on show, and the daemon's answers are bounded too.

import {ENDED} from "./format.js";

export const SHOWN_RUNNING = 100;
export const SHOWN_WAITING = 50;
export const SHOWN_RECENT = 8;
const BUSY_MS = 2_000; // while something runs: its last line, its progress
const IDLE_MS = 5_000;
const HIDDEN_MS = 30_000; // in a tab that nobody looks at
const WORKERS_MS = 5_000;
const NUDGE_MS = 300; // events come in bursts: they make one look

// One for each connection. `watch(handler)` is told of changes, at most once a frame.
export class Store {
  constructor(connection) {
    this.connection = connection;
    this.info = null; // cumulus.server.info
    this.workers = []; // cumulus.worker.list
    this.workersAt = 0; // when that came, by performance.now()
    this.running = []; // starting, running and paused jobs, newest first
    this.waiting = []; // the head of the queue, in its order
    this.recent = []; // those that ended last
    this.counts = {}; // how many jobs have each state, of those that have not ended
    this.loaded = false;
    this.problem = null; // why the last look failed, in words
    this._skewS = 0; // the daemon's clock less the browser's
    this._watchers = new Set();
    this._told = false;
    this._looking = {jobs: false, workers: false};
    this._timers = {};
    this._offs = [connection.onState(() => this._connectionChanged())];
    this._shown = () => this._soon("jobs", 0);
    document.addEventListener("visibilitychange", this._shown);
    this._connectionChanged();
  }

  // Unix seconds by the daemon's clock.
  now() {
    return Date.now() / 1000 + this._skewS;
  }

  // Seconds since the workers were told, for what counts down.
  workersAgeS() {
    return (performance.now() - this.workersAt) / 1000;
  }

  // A job that is known here; else null.
  job(jobId) {
    return [this.running, this.waiting, this.recent].flat().find((job) => job.job_id === jobId) ?? null;
  }

  // `handler(store)` after changes, at most once a frame. Returns how to end that.
  watch(handler) {
    this._watchers.add(handler);
    return () => this._watchers.delete(handler);
  }

  // Looks again at once: after a cancel, for one.
  refresh() {
    this._soon("jobs", 0);
  }

  stop() {
    for (const off of this._offs) off();
    document.removeEventListener("visibilitychange", this._shown);
    for (const timer of Object.values(this._timers)) clearTimeout(timer);
    this._watchers.clear();
    this._stopped = true;
  }

  _connectionChanged() {
    if (this.connection.state !== "open") {
      this._tell();
      return;
    }
    if (!this._subscribed && this.connection.role !== "client") {
      // A client may not listen to these topics; what it sees is asked for every so often.
      this._subscribed = true;
      this._offs.push(
        this.connection.subscribe("cumulus.jobs", ({job}) => this._jobChanged(job)),
        this.connection.subscribe("cumulus.workers", ({workers}) => this._workersCame(workers)),
      );
    }
    this.connection.call("cumulus.server.info").then(
      (info) => {
        this.info = info;
        this._tell();
      },
      () => {}, // lost again: the connection says so, and this is asked anew
    );
    this._soon("jobs", 0);
    this._soon("workers", 0);
  }

  _jobChanged(job) {
    if (!job) return;
    const index = this.running.findIndex((known) => known.job_id === job.job_id);
    if (index >= 0 && !ENDED.includes(job.status)) {
      this.running[index] = {...job, last_line: this.running[index].last_line};
      this._tell();
    }
    this._soon("jobs", NUDGE_MS);
  }

  _workersCame(workers) {
    this.workers = workers;
    this.workersAt = performance.now();
    this._tell();
  }

  // Has `what` looked at in so many ms at the latest.
  _soon(what, delayMs) {
    if (this._stopped) return;
    const due = performance.now() + delayMs;
    if (this._timers[what] && this._timers[`${what}Due`] <= due) return;
    clearTimeout(this._timers[what]);
    this._timers[`${what}Due`] = due;
    this._timers[what] = setTimeout(() => {
      this._timers[what] = null;
      this._look(what);
    }, delayMs);
  }

  async _look(what) {
    if (this._looking[what] || this.connection.state !== "open" || this._stopped) return;
    this._looking[what] = true;
    try {
      if (what === "jobs") await this._lookAtJobs();
      else this._workersCame((await this.connection.call("cumulus.worker.list")).workers);
      this.problem = null;
    } catch (error) {
      // Lost connections tell of themselves, and look anew when they are back.
      if (error.code !== "disconnected") this.problem = error.message;
    } finally {
      this._looking[what] = false;
      this._tell();
      if (this.connection.state === "open") this._soon(what, this._pauseMs(what));
    }
  }

  _pauseMs(what) {
    if (document.hidden) return HIDDEN_MS;
    if (what === "workers") return WORKERS_MS;
    return this.running.length ? BUSY_MS : IDLE_MS;
  }

  async _lookAtJobs() {
    const search = (kwargs) => this.connection.call("cumulus.job.search", kwargs);
    const [running, waiting, recent] = await Promise.all([
      search({states: ["starting", "running", "paused"], limit: SHOWN_RUNNING}),
      search({states: ["pending"], order: "queue", limit: SHOWN_WAITING}),
      search({states: ENDED, limit: SHOWN_RECENT}),
    ]);
    this._skewS = running.now - Date.now() / 1000;
    this.running = running.jobs;
    this.waiting = waiting.jobs;
    this.recent = recent.jobs;
    this.counts = running.counts;
    this.loaded = true;
  }

  _tell() {
    if (this._told || this._stopped) return;
    this._told = true;
    const tell = () => {
      this._told = false;
      for (const handler of [...this._watchers]) handler(this);
    };
    // A hidden tab has no frames.
    if (document.hidden) setTimeout(tell, 200);
    else requestAnimationFrame(tell);
  }
}
