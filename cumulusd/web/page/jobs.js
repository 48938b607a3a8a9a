// All jobs that are kept, searched and filtered. The address has it all: it can be shared.

import {fill, h, keyedList, setAttribute, setText} from "./dom.js";
import {ENDED, STATES, duration, moment, timeLeft} from "./format.js";
import {jobLink, stateBadge, waitWords} from "./jobrow.js";
import {href, replaceQuery} from "./router.js";

const PAGE = 50; // rows on show, whatever there is
const ROUNDS = 20; // looks of the daemon (each bounded) that one page may take
const TYPED_MS = 250;
const AGAIN_MS = 3_000;
const GROUPS = [["active", "Active", ["pending", "starting", "running", "paused"]],
  ["ended", "Ended", ENDED]];
const COLUMNS = ["State", "Job", "Owner", "Submitted", "Took", "Worker", "What became of it"];

// The states that an address's `state` names; none: all.
function statesOf(name) {
  const group = GROUPS.find(([key]) => key === name);
  if (group) return group[2];
  return name in STATES ? [name] : [];
}

export const jobsView = {
  mount(root, context, parameters, query) {
    const view = new JobsView(root, context);
    view.query(query);
    const unmount = () => view.stop();
    unmount.query = (changed) => view.query(changed);
    return unmount;
  },
};

class JobsView {
  constructor(root, {connection, store, role, announce}) {
    this.connection = connection;
    this.store = store;
    this.announce = announce;
    this._given = {};
    this._shown = null;
    this._abort = null;
    this._timers = {};
    this._build(root, role);
    this._off = connection.onState(() => {
      if (connection.state === "open") this._load();
    });
  }

  // What the address says now.
  query(given) {
    const before = this._given;
    this._given = given;
    for (const field of [this.search, this.owner, this.state]) {
      if (field && document.activeElement !== field) field.value = given[field.name] ?? "";
    }
    if (given.find) { // who pressed "/" elsewhere; no part of what is shared
      this.search.focus();
      history.replaceState(null, "", href(["jobs"]));
    }
    setAttribute(this.clear, "href", href(["jobs"]));
    this.clear.hidden = !(given.q || given.owner || given.state || given.after);
    const key = JSON.stringify(this._asked());
    if (key === this._shown) return;
    this._shown = key;
    this._load();
    if (before.after !== given.after) scrollTo(0, 0);
  }

  stop() {
    this._off();
    this._abort?.abort();
    for (const timer of Object.values(this._timers)) clearTimeout(timer);
  }

  _build(root, role) {
    const typed = () => {
      clearTimeout(this._timers.typed);
      this._timers.typed = setTimeout(() => this._filter(), TYPED_MS);
    };
    const now = () => this._filter();
    this.search = h("input", {type: "search", id: "q", name: "q", placeholder: "name or id",
      autocomplete: "off", spellcheck: "false", "aria-keyshortcuts": "/", oninput: typed});
    this.state = h("select", {id: "state", name: "state", onchange: now},
      h("option", {value: ""}, "any state"),
      GROUPS.map(([key, text]) => h("option", {value: key}, text.toLowerCase())),
      Object.entries(STATES).map(([key, {word}]) => h("option", {value: key}, word)));
    // A client sees its own jobs: there is nothing to choose.
    this.owner = role === "client" ? null : h("input", {type: "text", id: "owner", name: "owner",
      autocomplete: "off", spellcheck: "false", placeholder: "anybody", oninput: typed});
    this.clear = h("a", {hidden: true}, "Clear");
    this.status = h("p", {class: "quiet", id: "found"});
    this.problem = h("p", {class: "fault", role: "alert", hidden: true});
    const send = (event) => {
      event.preventDefault();
      this._filter();
    };
    const body = h("tbody", {});
    this.rows = keyedList(body, (job) => job.job_id, (job) => jobRow(job, this.store, role));
    this.table = h("table", {class: "jobs"},
      h("caption", {class: "unseen"}, "Jobs, the newest first"),
      h("thead", {}, h("tr", {}, COLUMNS.filter((text) => role !== "client" || text !== "Owner")
        .map((text) => h("th", {scope: "col"}, text)))), body);
    this.pages = h("nav", {class: "pages", "aria-label": "Pages of jobs"});
    root.append(
      h("h1", {}, "Jobs"),
      h("form", {class: "filters", role: "search", onsubmit: send},
        h("div", {class: "field wide"}, h("label", {for: "q"}, "Search ",
          h("kbd", {"aria-hidden": "true"}, "/")), this.search),
        h("div", {class: "field"}, h("label", {for: "state"}, "State"), this.state),
        this.owner && h("div", {class: "field"}, h("label", {for: "owner"}, "Owner"), this.owner),
        this.clear),
      this.status, this.problem, h("div", {class: "scroll"}, this.table), this.pages);
  }

  // The fields go into the address, which leads to query().
  _filter() {
    replaceQuery({q: this.search.value.trim(), state: this.state.value,
      owner: this.owner?.value.trim() ?? ""});
  }

  _asked() {
    const {q = "", owner = "", state = "", after = ""} = this._given;
    return {states: statesOf(state), owner, text: q, after, limit: PAGE};
  }

  // Looks on until a page is full, or all was seen. What is on show stays until then.
  async _load(quietly = false) {
    clearTimeout(this._timers.again);
    this._abort?.abort();
    const abort = this._abort = new AbortController();
    const asked = this._asked();
    if (!quietly) setText(this.status, "Looking…");
    try {
      let found = [], next = asked.after || null;
      for (let round = 0; round < ROUNDS; round += 1) {
        const answer = await this.connection.call("cumulus.job.search",
          {...asked, after: next ?? "", limit: PAGE - found.length}, {signal: abort.signal});
        found = found.concat(answer.jobs);
        next = answer.next;
        if (next === null || found.length >= PAGE) break;
      }
      this._show(found, next, quietly);
    } catch (error) {
      if (error.code === "aborted") return;
      if (error.code !== "disconnected") {
        this.problem.hidden = false;
        setText(this.problem, error.message);
        setText(this.status, "");
      }
    }
    if (abort.signal.aborted || this.connection.state !== "open") return;
    this._timers.again = setTimeout(() => this._load(true), document.hidden ? 30_000 : AGAIN_MS);
  }

  _show(found, next, quietly) {
    this.problem.hidden = true;
    this.rows.update(found);
    this.table.hidden = found.length === 0;
    const {after} = this._given;
    const filtered = this._given.q || this._given.owner || this._given.state;
    let words = `${found.length} ${found.length === 1 ? "job" : "jobs"}`;
    if (!found.length) {
      words = filtered ? "No job that is kept fits this search." : "There are no jobs yet.";
      if (next !== null) words = "None so far; there are older ones to look through.";
    } else if (next !== null || after) words += " on this page";
    setText(this.status, words);
    if (!quietly) this.announce(words);
    const {q, owner, state} = this._given;
    const newest = after && h("a", {href: href(["jobs"], {q, owner, state})}, "Newest");
    const older = next !== null &&
      h("a", {href: href(["jobs"], {q, owner, state, after: next}), rel: "next"}, "Older");
    const key = `${after ?? ""} ${next ?? ""}`;
    if (this.pages.dataset.key !== key) {
      this.pages.dataset.key = key;
      fill(this.pages, newest, older);
    }
    this.pages.hidden = !newest && !older;
  }
}

function jobRow(first, store, role) {
  const badge = stateBadge();
  const took = h("td", {class: "figure took"}), worker = h("td", {class: "on"});
  const what = h("td", {class: "why"});
  const element = h("tr", {data: {job: first.job_id}},
    h("td", {class: "badge"}, badge.element), h("th", {scope: "row"}, jobLink(first)),
    role !== "client" && h("td", {class: "owner"}, h("bdi", {}, first.owner)),
    h("td", {class: "figure when"}, moment(first.created_at, store.now())), took, worker, what);
  return {
    element,
    update(job) {
      badge.update(job);
      setText(took, tookWords(job, store.now()));
      setText(worker, job.worker?.hostname ?? "");
      setText(what, whatWords(job, store.now()));
    },
  };
}

function tookWords(job, now) {
  if (job.started_at === null) return "";
  if (job.completed_at !== null) return duration(job.completed_at - job.started_at);
  return timeLeft(job, now) === null ? "" : duration(now - job.started_at);
}

function whatWords(job, now) {
  if (job.error) return job.error;
  if (job.wait) return waitWords(job, now);
  if (job.status === "running") return job.last_line ?? job.progress?.message ?? "";
  if (job.end?.output_count) return `${job.end.output_count} output files`;
  return "";
}
