// The frame: who is signed in, whether the connection stands, which view is on show.

import {connect} from "./wamp.js";
import {fill, h, isTyping, setAttribute, setText} from "./dom.js";
import {jobView} from "./job.js";
import {jobsView} from "./jobs.js";
import {mountLogin} from "./login.js";
import {overviewView} from "./overview.js";
import {Store} from "./state.js";
import {href, start as startRouter} from "./router.js";
import * as theme from "./theme.js";
import {workersView} from "./workers.js";

const TOKEN = "cumulus.token";
const ANNOUNCED_MS = 2_500; // what a screen reader is told comes no quicker than this

// A view: mount(root, context, parameters, query) -> unmount; `query(query)` where it takes a
// changed query while it stays. `title`: of the window and for screen readers.
const VIEWS = {
  overview: {view: overviewView, title: "Overview"},
  workers: {view: workersView, title: "Workers"},
  jobs: {view: jobsView, title: "Jobs"},
  job: {view: jobView, title: "Job"},
};
const ROUTES = [
  ["overview", []], ["workers", ["workers"]], ["jobs", ["jobs"]], ["job", ["jobs", ":jobId"]],
];
const NAV = [["overview", [], "Overview"], ["workers", ["workers"], "Workers"],
  ["jobs", ["jobs"], "Jobs"]];

class App {
  constructor() {
    this.main = document.getElementById("main");
    this.top = document.getElementById("top");
    this.announcer = document.getElementById("announcer");
    this.connection = null;
    this.store = null;
    this.address = null;
    this.unmount = null;
    this._said = [];
    this._speaking = null;
    this._buildTop();
    addEventListener("keydown", (event) => this._key(event));
    document.querySelector(".skip").addEventListener("click", (event) => {
      event.preventDefault(); // the hash is the address of a view
      this.main.focus();
    });
    startRouter(ROUTES, (address, isSameView) => this._navigate(address, isSameView));
    setInterval(() => this._showConnection(), 1_000);
    this.connectWith(sessionStorage.getItem(TOKEN));
  }

  connectWith(token) {
    this._leave();
    this.connection?.close();
    this.store?.stop();
    this.store = null;
    this._role = null;
    const url = `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/ws`;
    this.connection = connect({url, token});
    this.connection.onState((connection) => {
      if (connection === this.connection) this._stateChanged(token);
    });
    this._stateChanged(token);
  }

  signOut() {
    sessionStorage.removeItem(TOKEN);
    this.connectWith(null);
  }

  // For screen readers, one sentence at a time; what comes too quickly is left out but the last.
  announce(text) {
    this._said = [text];
    if (this._speaking) return;
    const speak = () => {
      this._speaking = null;
      if (!this._said.length) return;
      this.announcer.textContent = this._said.pop();
      this._speaking = setTimeout(speak, ANNOUNCED_MS);
    };
    speak();
  }

  _stateChanged(token) {
    const {connection} = this;
    if (connection.state === "open") {
      if (token !== null) sessionStorage.setItem(TOKEN, token);
      if (this.store === null) {
        this.store = new Store(connection);
        this._role = connection.role;
        this._mount();
      } else {
        if (this._role !== connection.role) { // the same token means something else now
          this.connectWith(token);
          return;
        }
        this.announce("The connection is back");
      }
    } else if (connection.state === "refused") {
      sessionStorage.removeItem(TOKEN);
      this._leave();
      this.store?.stop();
      this.store = null;
      // Who comes for the first time has done nothing wrong.
      const reason = token === null && !connection.wasOpen ? "" : connection.reason;
      document.title = "Sign in · Cumulus";
      mountLogin(this.main, reason, (given) => this.connectWith(given));
    } else if (connection.state === "waiting") {
      if (this.store === null) this._showUnreachable();
      else if (this._lastState === "open") this.announce("The connection was lost, trying again");
    } else if (connection.state === "connecting" && this.store === null && !this.main.firstChild) {
      fill(this.main, h("p", {class: "quiet"}, "Connecting…"));
    }
    this._lastState = connection.state;
    this._showConnection();
  }

  _showUnreachable() {
    fill(this.main, h("div", {class: "notice"},
      h("h1", {}, "The daemon can't be reached"),
      h("p", {}, this.connection.reason, ". This page tries again by itself."),
      h("p", {class: "quiet"}, "If it lasts: is the daemon running, and is this address one that it " +
        "answers to? A daemon without tokens answers to localhost, and to the names of ",
      h("code", {}, "web.host_names"), ".")));
  }

  _navigate(address, isSameView) {
    this.address = address;
    if (isSameView && this.unmount?.query) this.unmount.query(address.query);
    else if (this.store !== null) this._mount(true);
    this._showNav();
  }

  _mount(moved = false) {
    this._leave();
    fill(this.main);
    const shown = VIEWS[this.address.name];
    const context = {
      connection: this.connection, store: this.store, role: this.connection.role,
      announce: (text) => this.announce(text),
    };
    if (!shown) {
      fill(this.main, h("h1", {}, "There is no such view"),
        h("p", {}, h("a", {href: href([])}, "Back to the overview")));
      document.title = "Cumulus";
      return;
    }
    document.title = `${this.address.parameters.jobId ?? shown.title} · Cumulus`;
    this.main.dataset.view = this.address.name;
    const ended = shown.view.mount(this.main, context, this.address.parameters, this.address.query);
    this.unmount = ended;
    if (moved) {
      scrollTo(0, 0);
      // Unless the view has put it somewhere.
      if (!this.main.contains(document.activeElement)) this.main.focus({preventScroll: true});
    }
    this._showNav();
  }

  _leave() {
    const {unmount} = this;
    this.unmount = null;
    if (typeof unmount === "function") unmount();
  }

  _buildTop() {
    this.links = NAV.map(([name, parts, text]) =>
      h("a", {href: href(parts), data: {view: name}}, text));
    this.status = h("span", {class: "connection"});
    this.retry = h("button", {type: "button", class: "plain", hidden: true,
      onclick: () => this.connection.retryNow()}, "Try now");
    this.who = h("span", {class: "who"});
    this.out = h("button", {type: "button", class: "plain", hidden: true,
      onclick: () => this.signOut()}, "Sign out");
    const colours = h("button", {type: "button", class: "plain icon"});
    theme.control(colours);
    fill(this.top,
      h("a", {class: "brand", href: href([])}, h("img", {src: "/page/icon.svg", alt: "", width: 22,
        height: 22}), "Cumulus"),
      h("nav", {"aria-label": "Views"}, this.links),
      h("div", {class: "session"}, this.status, this.retry, this.who, this.out, colours));
  }

  _showNav() {
    for (const link of this.links) {
      const {view} = link.dataset, {name} = this.address;
      const within = view === "jobs" && name === "job"; // not that page, but below it
      setAttribute(link, "aria-current", view === name ? "page" : within ? "true" : null);
    }
  }

  _showConnection() {
    const {connection} = this;
    const words = {connecting: "Connecting…", open: "Live", refused: "Signed out", closed: "Closed"};
    let text = words[connection.state];
    if (connection.state === "waiting") {
      const seconds = Math.max(0, Math.ceil((connection.retryAt - Date.now()) / 1000));
      text = `Reconnecting in ${seconds} s`;
    }
    setText(this.status, text);
    setAttribute(this.status, "data-state", connection.state);
    setAttribute(this.status, "title", connection.state === "waiting" ? connection.reason : null);
    setAttribute(document.body, "data-stale", this.store && connection.state !== "open" ? "true" : null);
    this.retry.hidden = connection.state !== "waiting";
    this.out.hidden = sessionStorage.getItem(TOKEN) === null;
    const {info} = this.store ?? {};
    setText(this.who, info && connection.state === "open" ? `${info.owner} · ${info.role}` : "");
  }

  _key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape" && isTyping(event.target)) {
      event.target.blur();
      this.main.focus({preventScroll: true});
    } else if (event.key === "/" && !isTyping(event.target) && this.store !== null) {
      event.preventDefault();
      const field = this.main.querySelector("input[type=search]");
      if (field) field.focus();
      else location.hash = href(["jobs"], {find: "1"});
    }
  }
}

theme.apply(theme.chosen());
new App();
