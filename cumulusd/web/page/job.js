// One job's page: `#/jobs/<id>`.

import {fill, h} from "./dom.js";
import {STATES, hasEnded, title} from "./format.js";
import {jobActions} from "./job_actions.js";
import {fetchFile, jobAttempts, jobError, jobResult} from "./job_end.js";
import {jobCheckpoints, jobOutputs} from "./job_files.js";
import {JobFollower} from "./job_follow.js";
import {jobHead} from "./job_head.js";
import {jobPath} from "./job_http.js";
import {JobLines} from "./job_lines.js";
import {JobLog} from "./job_log.js";
import {LogView} from "./job_logview.js";
import {jobTimeline} from "./job_timeline.js";
import {whyWords} from "./job_words.js";
import {href} from "./router.js";

const TICK_MS = 1_000;
// Whether an ended job is still there: history takes it one day.
const LOOK_MS = 20_000;

export const jobView = {
  mount(root, context, {jobId}) {
    const page = new JobPage(root, context, jobId);
    return () => page.unmount();
  },
};

class JobPage {
  #root;
  #context;
  #jobId;
  #job = null;
  #progress = null; // the code's last word, which the journal told
  #end = new AbortController();
  #log = new JobLog();
  #parts;
  #follower;
  #trouble;
  #timers = [];
  #unsubscribe;

  constructor(root, context, jobId) {
    this.#root = root;
    this.#context = context;
    this.#jobId = jobId;
    this.#build();
    this.#follower = new JobFollower(context.connection, jobId, new JobLines(this.#log), {
      view: (job) => {
        this.#say(null);
        this.#shown(job);
      },
      progress: (progress) => this.#progressed(progress),
      changed: () => this.logView.changed(),
      interrupted: () =>
        this.#say(
          "The output stops here until the daemon is back; then it goes on where it was.",
          false,
        ),
      ended: (job) => this.#ended(job),
      gone: (error) => this.#gone(error),
      failed: (error) => this.#failed(error),
    });
    // Progress, and what comes after the end, a follower isn't told.
    this.#unsubscribe = context.connection.subscribe(
      `cumulus.job.${jobId}.status`,
      ({job}) => job && this.#shown(job),
    );
    this.#timers = [
      setInterval(() => this.#tick(), TICK_MS),
      setInterval(() => this.#look(), LOOK_MS),
    ];
    this.#follower.follow();
  }

  unmount() {
    this.#end.abort();
    this.#follower.stop();
    this.#unsubscribe();
    this.#timers.forEach(clearInterval);
    this.logView.unmount();
    for (const part of this.#parts) part.unmount?.();
  }

  #build() {
    const {announce} = this.#context;
    this.head = jobHead(announce);
    this.actions = jobActions(this.#context, this.#jobId, (error) => this.#gone(error));
    this.logView = new LogView(this.#log, {announce, saveLog: () => this.#saveLog()});
    this.saved = h("div", {class: "job-said", role: "status"});
    this.#trouble = h("div", {class: "job-trouble", role: "status", hidden: true});
    const error = jobError();
    const result = jobResult(this.#context, this.#jobId);
    const outputs = jobOutputs(this.#jobId);
    const timeline = jobTimeline();
    const attempts = jobAttempts();
    const checkpoints = jobCheckpoints();
    this.#parts = [
      this.head,
      this.actions,
      error,
      result,
      outputs,
      timeline,
      attempts,
      checkpoints,
    ];
    this.main = h(
      "article",
      {class: "job-page", hidden: true},
      h("div", {class: "job-top panel"}, this.head.element, this.actions.element, this.head.facts),
      h(
        "div",
        {class: "job-body"},
        h(
          "div",
          {class: "job-main"},
          error.element,
          this.#trouble,
          this.logView.element,
          this.saved,
          result.element,
        ),
        h(
          "div",
          {class: "job-side"},
          timeline.element,
          outputs.element,
          checkpoints.element,
          attempts.element,
        ),
      ),
    );
    this.waiting = h("p", {class: "quiet"}, `Looking for job ${this.#jobId}…`);
    fill(
      this.#root,
      h("p", {class: "job-back"}, h("a", {href: href(["jobs"])}, "← All jobs")),
      this.waiting,
      this.main,
    );
  }

  #shown(job) {
    const before = this.#job;
    this.#job =
      this.#progress && !hasEnded(job) && !job.progress ? {...job, progress: this.#progress} : job;
    this.waiting.remove();
    this.main.hidden = false;
    document.title = `${title(job)} · Cumulus`;
    if (before && before.status !== job.status) {
      const why = whyWords(job);
      this.#context.announce(
        `The job is ${STATES[job.status]?.word ?? job.status}${why ? `: ${why}` : ""}`,
      );
    }
    this.#update();
  }

  #progressed(progress) {
    this.#progress = progress;
    if (this.#job && !hasEnded(this.#job)) {
      this.#job = {...this.#job, progress};
      this.head.update(this.#job, this.#now());
    }
  }

  #ended(job) {
    this.logView.ended();
    this.#shown(job);
  }

  #update() {
    const now = this.#now();
    for (const part of this.#parts) part.update(this.#job, now);
  }

  #tick() {
    if (this.#job === null || this.#job.phase === "ended") return;
    this.#update();
  }

  #now() {
    return this.#context.store?.now?.() ?? Date.now() / 1000;
  }

  async #look() {
    if (this.#job === null || !hasEnded(this.#job) || document.hidden) return;
    try {
      this.#shown(
        await this.#context.connection.call(
          "cumulus.job.get",
          {job_id: this.#jobId},
          {signal: this.#end.signal},
        ),
      );
    } catch (error) {
      // Any other fault passes, or the frame tells of it.
      if (error.code === "not_found") this.#gone(error);
    }
  }

  #gone(error) {
    if (this.#end.signal.aborted) return;
    this.unmount();
    fill(
      this.#root,
      h(
        "div",
        {class: "notice", role: "alert"},
        h("h1", {}, this.#job ? "The job is gone" : "There is no such job"),
        h("p", {}, error.message),
        h(
          "p",
          {class: "quiet"},
          "Jobs and their output are kept for some time after their end, then the daemon's history " +
            "drops them; or somebody deleted it. Jobs of other owners are not shown either.",
        ),
        h("p", {}, h("a", {href: href(["jobs"])}, "All jobs that are kept")),
      ),
    );
    this.#context.announce("This job is not there any more");
  }

  #failed(error) {
    if (this.#job === null) {
      fill(
        this.waiting,
        h("span", {class: "fault", role: "alert"}, error.message),
        error.hint && ` ${error.hint}`,
      );
    }
    this.#say(`The output can't be followed: ${error.message}`, true, error.hint);
  }

  #say(text, canRetry = false, hint = null) {
    this.#trouble.hidden = text === null;
    fill(
      this.#trouble,
      text && h("p", {class: canRetry ? "fault" : "quiet"}, text),
      hint && h("p", {class: "hint"}, hint),
      canRetry &&
        h("button", {type: "button", onclick: () => this.#follower.follow()}, "Try again"),
    );
  }

  #saveLog() {
    fetchFile(
      this.saved,
      jobPath(this.#jobId, "logs"),
      `${this.#jobId}.log`,
      `cumulus logs ${this.#jobId}`,
      this.#end.signal,
    );
  }
}
