// A job's log on the page: however long it is, only the rows in sight are elements.

import {h, setAttribute, setText} from "./dom.js";
import {rowElement} from "./job_logrow.js";
import {LogSearch} from "./job_search.js";

const OVERSCAN_ROWS = 15;
const SEARCH_PAUSE_MS = 150;
const TIMES = "cumulus.log.times"; // whether times are shown, for this tab

// `log`: a JobLog. `announce(text)` for screen readers. `saveLog()` fetches the whole log.
export class LogView {
  #log;
  #search;
  #announce;
  #saveLog;
  #follows = true;
  #times = sessionStorage.getItem(TIMES) === "1";
  #current = null; // the match that is looked at: {id, nth, number}
  #rowPx = 18;
  #lastTop = 0;
  #drawnDropped = 0;
  #anchor = null; // {id, offsetPx} of the first row in sight, while it doesn't follow
  #made = new Map(); // row -> {element, version, look}
  #scheduled = null;
  #searching = null;
  #ended = false;

  constructor(log, {announce, saveLog}) {
    this.#log = log;
    this.#search = new LogSearch(log);
    this.#announce = announce;
    this.#saveLog = saveLog;
    this.#build();
    this.#sizes = new ResizeObserver(() => {
      this.#measure();
      this.changed();
    });
    this.#sizes.observe(this.scroll);
    this.changed();
  }

  #sizes;

  unmount() {
    this.#sizes.disconnect();
    clearTimeout(this.#searching);
    cancelAnimationFrame(this.#scheduled);
  }

  // The log has more, or other, rows: they are drawn in the next frame.
  changed() {
    if (this.#scheduled !== null) return;
    this.#scheduled = requestAnimationFrame(() => {
      this.#scheduled = null;
      this.#search.update(this.#log.takeChanged());
      this.#draw();
    });
  }

  // No more comes.
  ended() {
    this.#ended = true;
    setAttribute(this.element, "data-ended", "true");
    this.changed();
  }

  #build() {
    this.field = h("input", {
      type: "search",
      placeholder: "Search the output",
      "aria-label": "Search the output",
      autocomplete: "off",
      spellcheck: "false",
      maxlength: "500",
      oninput: () => this.#searchSoon(),
      onkeydown: (event) => this.#fieldKey(event),
    });
    this.found = h("output", {class: "log-found", "aria-live": "polite"});
    this.back = this.#button("↑", "Previous match (Shift+Enter)", () => this.#step(-1));
    this.next = this.#button("↓", "Next match (Enter)", () => this.#step(1));
    this.times = this.#button("Times", "Show the time of each line", () => this.#toggleTimes());
    this.save = this.#button("Save log", "Save the whole log as a file", () => this.#saveLog());
    this.count = h("span", {class: "log-count"});
    this.followButton = h(
      "button",
      {type: "button", class: "log-follow", onclick: () => this.#followAgain()},
      "↓ Follow the output",
    );
    this.rows = h("div", {class: "log-rows"});
    this.canvas = h("div", {class: "log-canvas"}, this.rows);
    // Not announced line by line: a reader goes there, and reads.
    this.scroll = h(
      "div",
      {
        class: "log-scroll",
        role: "log",
        "aria-live": "off",
        tabindex: "0",
        "aria-label": "Output of the job",
        onscroll: () => this.#scrolled(),
        onkeydown: (event) => this.#logKey(event),
      },
      this.canvas,
    );
    this.empty = h("p", {class: "log-empty"});
    this.element = h(
      "section",
      {class: "log", "aria-labelledby": "log-title"},
      h(
        "div",
        {class: "log-bar"},
        h("h2", {id: "log-title"}, "Output"),
        this.count,
        h(
          "div",
          {class: "log-search", role: "search"},
          this.field,
          this.found,
          this.back,
          this.next,
        ),
        h("div", {class: "log-tools"}, this.times, this.save),
      ),
      h("div", {class: "log-frame"}, this.scroll, this.empty, this.followButton),
    );
    setAttribute(this.times, "aria-pressed", this.#times);
    setAttribute(this.element, "data-times", this.#times ? "true" : null);
    this.#showFound();
  }

  #button(text, label, onclick) {
    return h(
      "button",
      {type: "button", class: "log-button", title: label, "aria-label": label, onclick},
      text,
    );
  }

  // A row's height, whatever font and zoom there are.
  #measure() {
    const probe = h("div", {class: "log-row"}, h("span", {class: "log-text"}, "X"));
    this.rows.append(probe);
    this.#rowPx = probe.getBoundingClientRect().height || this.#rowPx;
    probe.remove();
  }

  #draw() {
    const total = this.#log.length;
    const {scroll} = this;
    this.canvas.style.height = `${total * this.#rowPx}px`;
    if (this.#follows) {
      scroll.scrollTop = scroll.scrollHeight;
    } else if (this.#anchor !== null) {
      // What is read stays where it is, also when rows before it were dropped.
      const top = this.#log.indexOf(this.#anchor.id) * this.#rowPx + this.#anchor.offsetPx;
      if (Math.abs(scroll.scrollTop - top) >= 1) scroll.scrollTop = top;
    }
    this.#lastTop = scroll.scrollTop;
    this.#drawnDropped = this.#log.dropped;
    const first = Math.max(0, Math.floor(scroll.scrollTop / this.#rowPx) - OVERSCAN_ROWS);
    const last = Math.min(
      total,
      Math.ceil((scroll.scrollTop + scroll.clientHeight) / this.#rowPx) + OVERSCAN_ROWS,
    );
    this.rows.style.transform = `translateY(${first * this.#rowPx}px)`;
    this.#place(first, last);
    this.#showFound();
    this.followButton.hidden = this.#follows || total === 0;
    this.empty.hidden = total > 0;
    setText(this.empty, this.#ended ? "The job wrote nothing." : "Nothing has been written yet.");
    const {lines, isPartial} = this.#log;
    const more = isPartial ? " and more" : "";
    setText(
      this.count,
      total === 0 ? "" : `${lines.toLocaleString("en")} line${lines === 1 ? "" : "s"}${more}`,
    );
  }

  // Makes the rows first..last the elements that are there; those that were there already are kept,
  // and with them what is selected in them.
  #place(first, last) {
    const wanted = new Map();
    for (let index = first; index < last; index += 1) {
      const row = this.#log.at(index);
      const matches = row.kind === "dropped" ? [] : this.#search.inRow(row.id);
      const current = this.#current?.id === row.id ? this.#current.nth : -1;
      const look = `${current} ${matches.join(" ")}`;
      const key = row.kind === "dropped" ? "dropped" : row.id;
      let made = this.#made.get(key);
      if (made?.version !== row.version || made.look !== look) {
        made?.element.remove();
        made = {
          element: rowElement(row, matches, current, () => this.#saveLog()),
          version: row.version,
          look,
        };
      }
      wanted.set(key, made);
    }
    for (const [key, {element}] of this.#made) {
      if (!wanted.has(key)) element.remove();
    }
    let at = this.rows.firstElementChild;
    for (const {element} of wanted.values()) {
      if (element === at) at = at.nextElementSibling;
      else this.rows.insertBefore(element, at);
    }
    this.#made = wanted;
  }

  #scrolled() {
    const {scrollTop, scrollHeight, clientHeight} = this.scroll;
    // What it did itself is told later, when the log may have gone on: it means nothing.
    if (Math.abs(scrollTop - this.#lastTop) < 1) return;
    const atEnd = scrollHeight - scrollTop - clientHeight < this.#rowPx * 1.5;
    if (atEnd) this.#follows = true;
    else if (scrollTop < this.#lastTop) this.#follows = false;
    this.#lastTop = scrollTop;
    this.#hold(this.#drawnDropped);
    this.changed();
  }

  // Keeps the first row in sight where it is from now on, unless it follows. `dropped`: how many
  // rows had been dropped when the reader last saw the log.
  #hold(dropped) {
    const index = Math.floor(this.#lastTop / this.#rowPx);
    const id = this.#follows ? null : this.#log.idAt(index, dropped);
    this.#anchor = id === null ? null : {id, offsetPx: this.#lastTop - index * this.#rowPx};
  }

  #followAgain() {
    this.#follows = true;
    this.#anchor = null;
    this.#draw();
    this.scroll.focus({preventScroll: true});
    this.#announce("Following the output");
  }

  #toggleTimes() {
    this.#times = !this.#times;
    sessionStorage.setItem(TIMES, this.#times ? "1" : "0");
    setAttribute(this.times, "aria-pressed", this.#times);
    setAttribute(this.element, "data-times", this.#times ? "true" : null);
  }

  // Searching.

  #searchSoon() {
    clearTimeout(this.#searching);
    this.#searching = setTimeout(() => this.#searchNow(), SEARCH_PAUSE_MS);
  }

  #searchNow() {
    clearTimeout(this.#searching);
    this.#searching = null;
    this.query = this.field.value;
    this.#search.find(this.query);
    this.#current = null;
    if (this.#search.count > 0) {
      // The nearest match to what is in sight, at or below its first row.
      const index = Math.floor(this.scroll.scrollTop / this.#rowPx);
      const row = this.#log.at(Math.min(index, this.#log.length - 1));
      const id = row.kind === "dropped" ? (this.#log.at(index + 1)?.id ?? 0) : row.id;
      this.#goTo(this.#search.step({id, nth: -1}, 1));
    } else {
      this.#draw();
    }
  }

  #step(step) {
    if (this.#searching !== null || this.query !== this.field.value) {
      this.#searchNow();
      return;
    }
    if (this.#search.count === 0) return;
    const from = this.#current ?? {id: 0, nth: -1};
    this.#goTo(this.#search.step(from, step));
  }

  #goTo(match) {
    this.#current = match;
    const index = this.#log.indexOf(match.id);
    const top = index * this.#rowPx;
    const {scroll} = this;
    this.canvas.style.height = `${this.#log.length * this.#rowPx}px`;
    if (top < scroll.scrollTop || top + 2 * this.#rowPx > scroll.scrollTop + scroll.clientHeight) {
      scroll.scrollTop = Math.max(0, top - scroll.clientHeight / 2);
    }
    this.#follows = false; // who looks at a match wants it to stay
    this.#lastTop = scroll.scrollTop;
    this.#hold(this.#log.dropped);
    this.#draw();
    this.#showAcross();
  }

  // Scrolls sideways where the match is out of sight; never the page.
  #showAcross() {
    const mark = this.rows.querySelector("mark.is-current");
    if (mark === null) return;
    const box = mark.getBoundingClientRect();
    const frame = this.scroll.getBoundingClientRect();
    if (box.left < frame.left || box.right > frame.right) {
      this.scroll.scrollLeft += box.left - frame.left - frame.width / 3;
    }
  }

  #showFound() {
    if (this.#current !== null) this.#current = this.#search.again(this.#current);
    const {count, isFull, isActive} = this.#search;
    const all = `${count.toLocaleString("en")}${isFull ? " or more" : ""}`;
    let words = "";
    if (isActive && count === 0) words = "no match";
    else if (isActive && this.#current)
      words = `${this.#current.number.toLocaleString("en")} of ${all}`;
    else if (isActive) words = `${all} match${count === 1 ? "" : "es"}`;
    setText(this.found, words);
    this.back.disabled = this.next.disabled = count === 0;
    setAttribute(
      this.found,
      "title",
      isActive && this.#log.dropped > 0
        ? "Searched in the lines that this page keeps; the saved log has all"
        : null,
    );
  }

  #fieldKey(event) {
    if (event.key === "Enter") {
      event.preventDefault();
      this.#step(event.shiftKey ? -1 : 1);
    } else if (event.key === "Escape" && this.field.value !== "") {
      event.stopPropagation();
      this.field.value = "";
      this.#searchNow();
    }
  }

  #logKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "n") this.#step(1);
    else if (event.key === "N" || event.key === "p") this.#step(-1);
    else if (event.key === "f") this.#followAgain();
  }
}
