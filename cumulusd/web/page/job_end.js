// How a job ended: the error with its traceback, its last words, the result, attempts before.

import {fill, h} from "./dom.js";
import {bytes, duration, moment} from "./format.js";
import {DownloadFailed, download, jobPath} from "./job_http.js";
import {layOut} from "./job_json.js";
import {reasonWords} from "./job_words.js";
import {decodeBytes} from "./wamp.js";

const RESULT_SHOWN_BYTES = 256 * 1024;
const RESULT_SHOWN_CHARS = 100_000;
const TEXT_SHOWN_CHARS = 64 * 1024;

// The error and what to do about it. `update(job)`.
export function jobError() {
  const element = h("section", {
    class: "panel job-error",
    "aria-labelledby": "error-title",
    hidden: true,
  });
  let key = "";
  return {
    element,
    update({end}) {
      element.hidden = !end || end.reason === null;
      const newKey = JSON.stringify(end);
      if (element.hidden || newKey === key) return;
      key = newKey;
      const {error} = end;
      const codes = [
        end.exit_code !== null && end.exit_code !== 0 && `exit code ${end.exit_code}`,
        end.signal !== null && `signal ${end.signal}`,
      ]
        .filter(Boolean)
        .join(", ");
      fill(
        element,
        h(
          "h2",
          {id: "error-title"},
          sentence(reasonWords(end.reason)),
          codes && h("span", {class: "count"}, ` ${codes}`),
        ),
        h("p", {class: "fault"}, bounded(end.message)),
        end.hint && h("p", {class: "hint"}, "What to do: ", bounded(end.hint)),
        error?.traceback &&
          h(
            "figure",
            {},
            h("figcaption", {}, "Traceback of the job's code"),
            h(
              "pre",
              {class: "traceback", tabindex: "0", "aria-label": "Traceback"},
              bounded(error.traceback),
            ),
          ),
        end.log_tail &&
          h(
            "details",
            {},
            h("summary", {}, "The last of its output"),
            h(
              "pre",
              {tabindex: "0", "aria-label": "The last of its output"},
              bounded(end.log_tail),
            ),
          ),
      );
    },
  };
}

// The value of the function, or of result.json. `update(job)`.
export function jobResult(context, jobId) {
  const body = h("div", {});
  const element = h(
    "section",
    {class: "panel", "aria-labelledby": "result-title", hidden: true},
    h("h2", {id: "result-title"}, "Result"),
    body,
  );
  const end = new AbortController();
  let shown = null;

  async function show(result) {
    const size = `${result.encoding === "json" ? "JSON" : `Python ${result.encoding}`}, ${bytes(result.size_bytes)}`;
    const about = h(
      "p",
      {class: "quiet"},
      size,
      " · SHA-256 ",
      h("code", {class: "hash"}, result.sha256),
    );
    const byHand = `cumulus result ${jobId}`;
    if (result.encoding !== "json") {
      fill(
        body,
        h(
          "p",
          {},
          "The result is a Python pickle. Opening one runs code, so neither this page nor the daemon does: " +
            "it is opened where the job was submitted, by ",
          h("code", {}, "job.result()"),
          " or ",
          h("code", {}, byHand),
          ".",
        ),
        about,
      );
      return;
    }
    const save = h(
      "button",
      {
        type: "button",
        onclick: () =>
          fetchFile(said, jobPath(jobId, "results"), `${jobId}-result.json`, byHand, end.signal),
      },
      "Save as file",
    );
    const said = h("div", {role: "status"});
    if (result.size_bytes > RESULT_SHOWN_BYTES) {
      fill(
        body,
        h("p", {}, `It is too large to be shown here. On a command line: `, h("code", {}, byHand)),
        about,
        save,
        said,
      );
      return;
    }
    try {
      const answer = await context.connection.call(
        "cumulus.job.result",
        {job_id: jobId},
        {signal: end.signal},
      );
      const data = decodeBytes(answer.data) ?? answer.data;
      const {text, isCut} = layOut(new TextDecoder().decode(data), RESULT_SHOWN_CHARS);
      fill(
        body,
        h("pre", {class: "result", tabindex: "0", "aria-label": "Result"}, text),
        isCut && h("p", {class: "quiet"}, "It goes on: the file has all of it."),
        about,
        save,
        said,
      );
    } catch (error) {
      if (error.code === "aborted") return;
      shown = null; // asked for anew with the next news of the job
      fill(
        body,
        h("p", {class: "fault"}, error.message),
        error.hint && h("p", {class: "hint"}, error.hint),
        about,
      );
    }
  }

  return {
    element,
    update(job) {
      const result = job.end?.result ?? null;
      element.hidden = job.status !== "completed";
      if (element.hidden || shown === (result?.sha256 ?? "none")) return;
      shown = result?.sha256 ?? "none";
      if (result === null) fill(body, h("p", {class: "empty"}, "It left no result."));
      else show(result);
    },
    unmount: () => end.abort(),
  };
}

// Fetches a file, and says in `said` how that goes. Never throws.
export async function fetchFile(said, path, name, byHand, signal) {
  const words = h("span", {}, "Fetching…");
  fill(said, words);
  try {
    await download(path, name, {
      byHand,
      signal,
      onBytes: (count) => {
        words.textContent = `Fetching… ${bytes(count)}`;
      },
    });
    fill(said, "Saved");
  } catch (error) {
    if (error.name === "AbortError") return;
    if (!(error instanceof DownloadFailed)) throw error;
    fill(
      said,
      h("p", {class: "fault"}, error.message),
      error.hint && h("p", {class: "hint"}, error.hint),
    );
  }
}

// Attempts that ended before. `update(job, now)`.
export function jobAttempts() {
  const list = h("ol", {class: "attempts"});
  const element = h(
    "section",
    {class: "panel", "aria-labelledby": "attempts-title", hidden: true},
    h("h2", {id: "attempts-title"}, "Attempts before"),
    list,
  );
  let key = "";
  return {
    element,
    update({attempts}, now) {
      element.hidden = attempts.length === 0;
      const newKey = JSON.stringify(attempts);
      if (newKey === key) return;
      key = newKey;
      fill(
        list,
        attempts.map((one) =>
          h(
            "li",
            {value: one.attempt},
            h("strong", {}, sentence(reasonWords(one.reason))),
            h(
              "span",
              {class: "quiet"},
              ` on ${one.worker?.hostname ?? "no worker"}` +
                (one.started_at === null
                  ? ""
                  : `, code ran ${duration(one.ended_at - one.started_at)}`) +
                `, until ${moment(one.ended_at, now)}`,
            ),
            h("p", {}, bounded(one.message)),
          ),
        ),
      );
    },
  };
}

function sentence(words) {
  return words.charAt(0).toUpperCase() + words.slice(1);
}

// Text of the job's is its own to choose: what is shown of it is bounded.
function bounded(text) {
  const whole = String(text ?? "");
  return whole.length <= TEXT_SHOWN_CHARS
    ? whole
    : `${whole.slice(0, TEXT_SHOWN_CHARS / 2)}\n⋯\n${whole.slice(-TEXT_SHOWN_CHARS / 2)}`;
}
