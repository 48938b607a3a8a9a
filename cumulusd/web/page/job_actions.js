// What may be asked of a job on its page: cancel, pause, resume.

import {fill, h} from "./dom.js";
import {actionsFor} from "./job_words.js";

const DOING = {cancel: "Cancelling…", pause: "Asking it to pause…", resume: "Resuming…"};

// `context`: of the page. `onGone(error)`: there is no such job any more. `update(job)`.
export function jobActions(context, jobId, onGone) {
  const buttons = {
    pause: h("button", {type: "button", onclick: () => ask("pause")}, "Pause"),
    resume: h("button", {type: "button", onclick: () => ask("resume")}, "Resume"),
    cancel: h("button", {type: "button", class: "danger", onclick: () => confirm()}, "Cancel job…"),
  };
  const yes = h(
    "button",
    {type: "button", class: "danger", onclick: () => ask("cancel")},
    "Cancel it",
  );
  const no = h("button", {type: "button", onclick: () => settle()}, "Let it go on");
  const question = h(
    "div",
    {
      class: "job-question",
      role: "group",
      "aria-labelledby": "job-question",
      hidden: true,
      onkeydown: (event) => event.key === "Escape" && settle(),
    },
    h(
      "p",
      {id: "job-question"},
      "Cancel this job? Its code is stopped, and what it has not saved is lost.",
    ),
    yes,
    no,
  );
  const said = h("div", {class: "job-said", role: "status"});
  const row = h("div", {class: "job-buttons"}, buttons.pause, buttons.resume, buttons.cancel);
  const element = h("div", {class: "job-actions"}, row, question, said);
  const end = new AbortController();
  let busy = false;
  let job = null;

  function show() {
    const may = actionsFor(job, context.role);
    for (const [name, button] of Object.entries(buttons)) {
      button.hidden = !may[name];
      button.disabled = busy;
    }
    if (!may.cancel && !question.hidden) settle();
    row.hidden = !question.hidden;
    element.hidden = !Object.values(may).some(Boolean) && !said.hasChildNodes();
  }

  function confirm() {
    question.hidden = false;
    fill(said);
    show();
    no.focus();
  }

  function settle() {
    const hadFocus = question.contains(document.activeElement);
    question.hidden = true;
    show();
    if (hadFocus && !buttons.cancel.hidden) buttons.cancel.focus();
  }

  async function ask(verb) {
    if (busy) return;
    busy = true;
    settle();
    fill(said, h("p", {class: "quiet"}, DOING[verb]));
    try {
      const answer = await context.connection.call(
        `cumulus.job.${verb}`,
        {job_id: jobId},
        {signal: end.signal},
      );
      fill(said, h("p", {}, answer.message));
    } catch (error) {
      if (error.code === "aborted") return;
      if (error.code === "not_found") {
        onGone(error);
        return;
      }
      fill(
        said,
        h("p", {class: "fault", role: "alert"}, error.message),
        error.hint && h("p", {class: "hint"}, error.hint),
      );
    } finally {
      busy = false;
      show();
    }
  }

  return {
    element,
    update(now) {
      job = now;
      show();
    },
    unmount: () => end.abort(),
  };
}
