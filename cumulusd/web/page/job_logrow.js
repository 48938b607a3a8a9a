// One row of a job's log as an element: its text in pieces of one style, matches marked.

import {h} from "./dom.js";

// However a row is coloured, it has no more pieces than this: what is behind them is plain.
const MAX_PIECES = 200;
// How a stream is told apart without colours. stdout is the rule, and has no sign.
const TAGS = {stderr: "err", setup: "set-up", stdout: ""};

// `matches`: [[begin, end], …]; `current`: which of them is looked at, or -1. `rawLog`: what shows
// or fetches the whole log, for the row that stands for what was dropped.
export function rowElement(row, matches, current, rawLog) {
  if (row.kind === "dropped") {
    return h(
      "div",
      {class: "log-row log-gap"},
      h(
        "span",
        {class: "log-text"},
        `⋯ ${row.count.toLocaleString("en")} lines${row.more ? " and more" : ""} are not kept on this page `,
      ),
      h("button", {type: "button", class: "link", onclick: rawLog}, "save the whole log"),
    );
  }
  const kind = row.kind === "line" ? `is-${row.stream}` : `log-${row.kind}`;
  const element = h(
    "div",
    {class: ["log-row", kind, row.goesOn && "goes-on"]},
    h("span", {class: "log-time", title: fullTime(row.timeMs)}, clock(row.timeMs)),
    h("span", {class: "log-tag"}, row.kind === "line" ? TAGS[row.stream] : "⋯"),
    h("span", {class: "log-text"}, pieces(row.line, matches, current)),
  );
  if (row.kind === "gap") {
    element.append(
      h("button", {type: "button", class: "link", onclick: rawLog}, "save what is kept"),
    );
  }
  return element;
}

function pieces({text, runs}, matches, current) {
  const cuts = new Set([0, text.length]);
  for (const [begin] of runs) cuts.add(begin);
  for (const [begin, end] of matches) cuts.add(begin).add(end);
  let borders = [...cuts].filter((at) => at <= text.length).sort((one, other) => one - other);
  if (borders.length > MAX_PIECES) {
    // The match that is looked at is always to be seen.
    const keep = new Set([
      ...borders.slice(0, MAX_PIECES),
      ...(matches[current] ?? []),
      text.length,
    ]);
    borders = borders.filter((at) => keep.has(at));
  }
  const made = [];
  let run = -1;
  let match = 0;
  for (let index = 0; index + 1 < borders.length; index += 1) {
    const [begin, end] = [borders[index], borders[index + 1]];
    while (run + 1 < runs.length && runs[run + 1][0] <= begin) run += 1;
    while (match < matches.length && matches[match][1] <= begin) match += 1;
    const style = run >= 0 ? runs[run][1] : "";
    const isMatch =
      match < matches.length && matches[match][0] <= begin && end <= matches[match][1];
    const part = text.slice(begin, end);
    if (isMatch) {
      made.push(h("mark", {class: [style, match === current && "is-current"]}, part));
    } else {
      made.push(style === "" ? part : h("span", {class: style}, part));
    }
  }
  return made;
}

function clock(timeMs) {
  if (timeMs === null) return "";
  const at = new Date(timeMs);
  const part = (value, digits = 2) => String(value).padStart(digits, "0");
  return (
    `${part(at.getHours())}:${part(at.getMinutes())}:${part(at.getSeconds())}.` +
    part(at.getMilliseconds(), 3)
  );
}

function fullTime(timeMs) {
  return timeMs === null ? null : new Date(timeMs).toISOString();
}
