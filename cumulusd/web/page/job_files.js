// What a job leaves: files to be downloaded, and its checkpoints.

import {fill, h} from "./dom.js";
import {bytes, moment} from "./format.js";
import {fetchFile} from "./job_end.js";
import {DOWNLOAD_MAX_BYTES, downloadCommand, jobPath} from "./job_http.js";

// `update(job)`.
export function jobOutputs(jobId) {
  const body = h("div", {});
  const count = h("span", {class: "count"});
  const said = h("div", {class: "job-said", role: "status"});
  const element = h(
    "section",
    {class: "panel", "aria-labelledby": "outputs-title", hidden: true},
    h("h2", {id: "outputs-title"}, "Files ", count),
    body,
    said,
  );
  const end = new AbortController();
  let key = "";

  function row({name, size_bytes: size}) {
    const byHand = downloadCommand(jobId, name);
    const action =
      size > DOWNLOAD_MAX_BYTES
        ? h("code", {}, byHand)
        : h(
            "button",
            {
              type: "button",
              "aria-label": `Download ${name}`,
              onclick: () =>
                fetchFile(said, jobPath(jobId, "outputs", name), name, byHand, end.signal),
            },
            "Download",
          );
    return h(
      "tr",
      {},
      h("th", {scope: "row", class: "file"}, h("bdi", {}, name)),
      h("td", {class: "figure"}, bytes(size)),
      h("td", {}, action),
    );
  }

  return {
    element,
    update(job) {
      const outputs = job.end?.outputs ?? [];
      const note = job.end?.outputs_note ?? null;
      element.hidden = outputs.length === 0 && note === null;
      const newKey = JSON.stringify([outputs, note]);
      if (newKey === key) return;
      key = newKey;
      count.textContent = outputs.length ? String(outputs.length) : "";
      fill(
        body,
        note && h("p", {class: "hint"}, note),
        outputs.length > 0 &&
          h(
            "div",
            {class: "scroll files", tabindex: "0", role: "region", "aria-label": "Files"},
            h(
              "table",
              {},
              h(
                "thead",
                {},
                h(
                  "tr",
                  {},
                  ["Name", "Size"].map((text) => h("th", {scope: "col"}, text)),
                  h("th", {scope: "col"}, h("span", {class: "unseen"}, "Fetch it")),
                ),
              ),
              h("tbody", {}, outputs.map(row)),
            ),
          ),
      );
    },
    unmount: () => end.abort(),
  };
}

// `update(job, now)`.
export function jobCheckpoints() {
  const body = h("div", {
    class: "scroll",
    tabindex: "0",
    role: "region",
    "aria-label": "Checkpoints",
  });
  const element = h(
    "section",
    {class: "panel", "aria-labelledby": "checkpoints-title", hidden: true},
    h("h2", {id: "checkpoints-title"}, "Checkpoints"),
    body,
  );
  let key = "";
  return {
    element,
    update(job, now) {
      const checkpoints = job.checkpoints ?? [];
      element.hidden = checkpoints.length === 0;
      const newKey = JSON.stringify(checkpoints);
      if (newKey === key) return;
      key = newKey;
      const columns = ["File", "Epoch", "Step", "Size", "Written", "Framework", "In the bucket"];
      fill(
        body,
        h(
          "table",
          {},
          h(
            "thead",
            {},
            h(
              "tr",
              {},
              columns.map((text) => h("th", {scope: "col"}, text)),
            ),
          ),
          h(
            "tbody",
            {},
            [...checkpoints].reverse().map((one) =>
              h(
                "tr",
                {},
                h("th", {scope: "row", class: "file"}, h("bdi", {}, one.filename)),
                [
                  one.epoch ?? "–",
                  one.step ?? "–",
                  one.size_bytes === null ? "–" : bytes(one.size_bytes),
                  writtenAt(one.timestamp, now),
                  one.framework ?? "–",
                  one.s3_key ?? "–",
                ].map((text) => h("td", {class: "figure"}, text)),
              ),
            ),
          ),
        ),
      );
    },
  };
}

function writtenAt(timestamp, now) {
  if (typeof timestamp === "number") return moment(timestamp, now);
  const parsed = Date.parse(timestamp ?? "");
  return Number.isNaN(parsed) ? String(timestamp ?? "–") : moment(parsed / 1000, now);
}
