// Everything at a glance: what runs, what waits and why, the workers, what ended last.

import {h, keyedList, setAttribute, setText} from "./dom.js";
import {bytes, duration, moment} from "./format.js";
import {jobLink, progressBar, stateBadge, timeLeftWords, waitWords} from "./jobrow.js";
import {href} from "./router.js";
import {SHOWN_RUNNING, SHOWN_WAITING} from "./state.js";
import {workerList, workerSummary} from "./workers.js";

export const overviewView = {
  mount(root, {store, announce}) {
    const problem = h("p", {class: "fault", role: "alert", hidden: true});
    const running = section("Running", "running");
    const waiting = section("Queue", "waiting");
    const workers = section("Workers", "workers");
    const recent = section("Ended last", "recent");
    root.append(
      h("h1", {class: "unseen"}, "Overview"), problem,
      h("div", {class: "columns"},
        h("div", {class: "column"}, running.element, waiting.element),
        h("div", {class: "column"}, workers.element, recent.element)));

    const runningList = h("ul", {class: "cards"});
    running.body.append(runningList);
    const runningRows = keyedList(runningList, (job) => job.job_id, (job) => runningRow(job, store));
    const queue = queueTable(store);
    waiting.body.append(queue.element);
    const devices = workerList(workers.body);
    const ended = h("ul", {class: "lines"});
    recent.body.append(ended, h("p", {}, h("a", {href: href(["jobs"])}, "All jobs")));
    const endedRows = keyedList(ended, (job) => job.job_id, (job) => endedRow(job, store));

    let before = null;
    const update = () => {
      const {counts} = store;
      const active = (counts.running ?? 0) + (counts.starting ?? 0) + (counts.paused ?? 0);
      problem.hidden = !store.problem;
      setText(problem, store.problem ?? "");
      runningRows.update(store.running);
      running.say(active, store.loaded && !store.running.length && "Nothing runs.",
        active > SHOWN_RUNNING && moreLink(active - SHOWN_RUNNING, "running"));
      queue.update(store.waiting);
      const line = counts.pending ?? 0;
      waiting.say(line, store.loaded && !store.waiting.length && "Nothing waits.",
        line > SHOWN_WAITING && moreLink(line - SHOWN_WAITING, "pending"));
      queue.element.hidden = !store.waiting.length;
      devices.update(store);
      workers.say(null, "", null, workerSummary(store.workers));
      endedRows.update(store.recent);
      recent.say(null, store.loaded && !store.recent.length && "No job has ended yet.");
      if (store.loaded) {
        const words = `${active} running, ${line} waiting`;
        if (before !== null && words !== before) announce(words);
        before = words;
      }
    };
    const tick = () => {
      devices.tick(store);
      for (const row of runningRows.rows.values()) row.tick();
    };
    update();
    const off = store.watch(update);
    const timer = setInterval(tick, 1_000);
    return () => {
      off();
      clearInterval(timer);
    };
  },
};

function moreLink(count, state) {
  return h("a", {href: href(["jobs"], {state})}, `${count} more`);
}

// A region with a heading, a count beside it, and a line for when it is empty.
function section(heading, id) {
  const count = h("span", {class: "count"});
  const about = h("p", {class: "quiet about"});
  const empty = h("p", {class: "empty"});
  const more = h("p", {class: "more"});
  const body = h("div", {});
  const element = h("section", {"aria-labelledby": `h-${id}`, class: `panel ${id}`},
    h("h2", {id: `h-${id}`}, heading, " ", count), about, body, empty, more);
  return {
    element, body,
    say(number, nothing, link, words = "") {
      setText(count, number === null ? "" : number);
      setText(about, words);
      about.hidden = !words;
      setText(empty, nothing || "");
      empty.hidden = !nothing;
      more.hidden = !link;
      const key = link ? link.textContent : "";
      if (more.textContent !== key) more.replaceChildren(link || "");
    },
  };
}

// A job that holds a share, or is coming up: what it said last, how far it is, what is left.
function runningRow(first, store) {
  const badge = stateBadge(), bar = progressBar();
  const where = h("span", {class: "quiet where"});
  const left = h("span", {class: "figure left"});
  const wait = h("p", {class: "wait"});
  const line = h("p", {class: "output"});
  const element = h("li", {class: "card", data: {job: first.job_id}},
    h("div", {class: "card-head"}, jobLink(first), badge.element, left),
    where, wait, bar.element, line);
  let job = first;
  return {
    element,
    update(next) {
      job = next;
      badge.update(job);
      bar.update(job);
      setText(where, placeWords(job));
      setText(wait, waitWords(job, store.now()));
      wait.hidden = !job.wait;
      setText(line, job.last_line ?? "");
      line.hidden = !job.last_line;
      this.tick();
    },
    tick() {
      setText(left, timeLeftWords(job, store.now()));
    },
  };
}

function placeWords(job) {
  const words = [job.owner];
  if (job.worker) words.push(job.worker.hostname);
  if (job.partition) {
    words.push(`${bytes(job.partition.gpu_memory_bytes)} of ${job.partition.device_name}`);
  }
  if (job.attempt > 1) words.push(`attempt ${job.attempt}`);
  return words.join(" · ");
}

function queueTable(store) {
  const body = h("tbody", {});
  const element = h("div", {class: "scroll"}, h("table", {class: "queue"},
    h("caption", {class: "unseen"}, "Jobs that wait, in the order of the line"),
    h("thead", {}, h("tr", {},
      ["#", "Job", "Owner", "Asks for", "Why it waits"].map((text) => h("th", {scope: "col"}, text)))),
    body));
  const rows = keyedList(body, (job) => job.job_id, (first) => {
    const place = h("td", {class: "figure place"}), why = h("td", {class: "why"});
    const owner = h("td", {class: "owner"}, h("bdi", {}, first.owner));
    const asks = h("td", {class: "figure asks"});
    const row = h("tr", {data: {job: first.job_id}},
      place, h("th", {scope: "row"}, jobLink(first)), owner, asks, why);
    return {
      element: row,
      update(job) {
        const position = job.wait?.details?.position;
        setText(place, position ?? "–");
        setText(asks, `${Number((job.gpu_memory * 100).toFixed(1))} % · ${duration(job.duration_s)}`);
        setText(why, waitWords(job, store.now()) || "it was taken just now");
        setAttribute(row, "title", `since ${moment(job.created_at, store.now())}`);
      },
    };
  });
  return {element, update: (jobs) => rows.update(jobs)};
}

function endedRow(first, store) {
  const badge = stateBadge();
  const when = h("span", {class: "figure quiet"});
  const why = h("span", {class: "why quiet"});
  const element = h("li", {data: {job: first.job_id}}, badge.element, jobLink(first), why, when);
  return {
    element,
    update(job) {
      badge.update(job);
      setText(when, job.completed_at ? moment(job.completed_at, store.now()) : "");
      setText(why, job.error ?? "");
    },
  };
}

