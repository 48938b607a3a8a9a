// The workers: state, faults, and each device as a bar of partitions in bytes and time left.

import {fill, h, keyedList, setAttribute, setText} from "./dom.js";
import {bytes, duration, percent} from "./format.js";
import {href} from "./router.js";

// What is wrong with a worker, in a sentence; "" when nothing is.
function faultOf(worker) {
  if (worker.fault) return worker.fault;
  if (worker.state !== "ready") return `the platform says that it is ${worker.state}`;
  if (worker.availability !== "active") {
    return worker.availability === "drain"
      ? "it is being drained: it takes no new job"
      : `it is set to ${worker.availability}: it takes no new job`;
  }
  if (worker.agent === "away") return "its agent is away: it takes no job until that is back";
  return worker.chronos?.fault ?? "";
}

function stateOf(worker) {
  if (worker.usable) return worker.fault || worker.chronos?.fault ? "faulty" : "ready";
  return worker.state === "ready" && worker.agent !== "away" ? "drained" : "away";
}

const SIGNS = {ready: "●", faulty: "▲", drained: "◌", away: "✕"};
const WORDS = {ready: "ready", faulty: "ready, with a fault", drained: "takes no jobs", away: "away"};

// A list of workers under `root`, each with a heading of that level; `update(store)` and
// `tick(store)` (time only).
export function workerList(root, heading = "h3") {
  const list = h("ul", {class: "workers"});
  const none = h("p", {class: "empty"}, "No worker is enrolled yet.");
  root.append(list, none);
  const rows = keyedList(list, (worker) => worker.node_id, () => workerRow(heading));
  return {
    update(store) {
      none.hidden = store.workers.length > 0 || !store.loaded;
      const names = new Map(store.running.map((job) => [job.job_id, job.name]));
      rows.update(store.workers.map((worker) => ({...worker, names})));
      this.tick(store);
    },
    tick(store) {
      for (const row of rows.rows.values()) row.tick(store.workersAgeS());
    },
  };
}

function workerRow(heading) {
  const name = h(heading, {class: "hostname"});
  const sign = h("span", {"aria-hidden": "true"});
  const word = h("span", {});
  const badge = h("span", {class: "worker-state"}, sign, word);
  const about = h("p", {class: "quiet about"});
  const fault = h("p", {class: "fault"});
  const devices = h("ul", {class: "devices"});
  const told = h("ul", {class: "disagreements"});
  const element = h("li", {class: "worker"},
    h("div", {class: "worker-head"}, name, badge), about, fault, devices, told);
  const rows = keyedList(devices, (device) => device.device_id, deviceRow);
  return {
    element,
    update(worker) {
      const state = stateOf(worker), wrong = faultOf(worker);
      setText(name, worker.hostname);
      setText(sign, SIGNS[state]);
      setText(word, WORDS[state]);
      setAttribute(badge, "data-state", state);
      setText(about, aboutWorker(worker));
      setText(fault, wrong);
      fault.hidden = !wrong;
      told.hidden = worker.disagreements.length === 0;
      if (told.childElementCount !== worker.disagreements.length || !told.hidden) {
        fill(told, worker.disagreements.slice(0, 5).map((text) => h("li", {class: "fault"}, text)));
      }
      rows.update(worker.devices.map((device) => ({...device, names: worker.names})));
    },
    tick(ageS) {
      for (const row of rows.rows.values()) row.tick(ageS);
    },
  };
}

function aboutWorker(worker) {
  const parts = [];
  if (worker.python_version) parts.push(`Python ${worker.python_version}`);
  if (worker.chronos && worker.chronos.backend !== "builtin") parts.push(worker.chronos.backend);
  if (!worker.devices.length && worker.agent !== "away") parts.push("no devices");
  return parts.join(" · ");
}

// A device: who has what of it. The list under the bar says the same in words, to all readers.
function deviceRow() {
  const name = h("span", {class: "device-name"});
  const free = h("span", {class: "device-free"});
  const bar = h("div", {class: "bar", role: "img"});
  const list = h("ul", {class: "partitions"});
  const element = h("li", {class: "device"},
    h("div", {class: "device-head"}, name, free), bar, list);
  const segments = keyedList(bar, (one) => one.partition_id, segment);
  const lines = keyedList(list, (one) => one.partition_id, partitionLine);
  return {
    element,
    update(device) {
      const partitions = device.partitions ?? [];
      const freeBytes = device.memory_bytes * device.units_free / device.units_total;
      const kind = device.kind === "gpu" ? "" : ` (${device.kind.toUpperCase()})`;
      setText(name, `${device.index}: ${device.name}${kind}`);
      setAttribute(name, "title", device.tier_note || device.tier);
      setText(free, `${bytes(freeBytes)} of ${bytes(device.memory_bytes)} free`);
      const used = partitions.reduce((sum, one) => sum + one.units, 0) / device.units_total;
      setAttribute(bar, "aria-label", `${percent(used)} of ${device.name} is in use by ` +
        `${partitions.length} ${partitions.length === 1 ? "job" : "jobs"}`);
      const widths = partitions.map((one) => ({
        ...one, share: one.units / device.units_total, name: device.names.get(one.job_id),
      }));
      segments.update(widths);
      lines.update(widths);
    },
    tick(ageS) {
      for (const row of lines.rows.values()) row.tick(ageS);
    },
  };
}

function segment() {
  const element = h("span", {class: "segment"});
  return {
    element,
    update(one) {
      element.style.width = `${one.share * 100}%`;
      setAttribute(element, "data-state", one.job_id ? one.state : `${one.state} other`);
    },
  };
}

function partitionLine() {
  const link = h("a", {class: "job"}, h("bdi", {}));
  const other = h("span", {class: "quiet"}, "another's job");
  const size = h("span", {class: "figure"});
  const left = h("span", {class: "figure left"});
  const element = h("li", {}, link, other, size, left);
  let shown = null;
  return {
    element,
    update(one) {
      shown = one;
      link.hidden = !one.job_id;
      other.hidden = Boolean(one.job_id);
      if (one.job_id) {
        setAttribute(link, "href", href(["jobs", one.job_id]));
        setText(link.firstChild, one.name || one.job_id);
        setAttribute(link, "title", `${one.job_id} of ${one.owner}`);
      }
      setText(size, `${bytes(one.gpu_memory_bytes)} · ${percent(one.share)}`);
    },
    tick(ageS) {
      if (shown.state === "draining") setText(left, "being cleared");
      else if (shown.remaining_s === null) setText(left, "");
      else setText(left, `ends within ${duration(Math.max(0, shown.remaining_s - ageS))}`);
    },
  };
}

export const workersView = {
  mount(root, {store}) {
    const summary = h("p", {class: "quiet"});
    root.append(h("h1", {}, "Workers"), summary);
    const section = h("section", {"aria-label": "All workers"});
    root.append(section);
    const list = workerList(section, "h2");
    const update = () => {
      setText(summary, workerSummary(store.workers));
      list.update(store);
    };
    update();
    const off = store.watch(update);
    const timer = setInterval(() => list.tick(store), 1_000);
    return () => {
      off();
      clearInterval(timer);
    };
  },
};

// "3 of 4 workers take jobs · 5 devices · 48 of 96 GiB free"
export function workerSummary(workers) {
  const devices = workers.flatMap((worker) => worker.devices);
  const usable = workers.filter((worker) => worker.usable).length;
  const total = devices.reduce((sum, device) => sum + device.memory_bytes, 0);
  const free = devices.reduce(
    (sum, device) => sum + device.memory_bytes * device.units_free / device.units_total, 0);
  const words = [
    `${usable} of ${workers.length} ${workers.length === 1 ? "worker takes" : "workers take"} jobs`,
    `${devices.length} ${devices.length === 1 ? "device" : "devices"}`,
  ];
  if (total) words.push(`${bytes(free)} of ${bytes(total)} free`);
  return words.join(" · ");
}
