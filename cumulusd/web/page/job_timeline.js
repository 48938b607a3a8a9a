// The stages of a job as a bar, and the same in words.

import {fill, h, setText} from "./dom.js";
import {moment} from "./format.js";
import {spanWords, stagesOf, widthsOf} from "./job_words.js";

// `update(job, now)`, `now` in unix seconds.
export function jobTimeline() {
  // The list says the same, and is what is read aloud.
  const bar = h("div", {class: "stages-bar", "aria-hidden": "true"});
  const list = h("ol", {class: "stages"});
  const total = h("span", {class: "count"});
  let key = "";
  let shown = [];
  return {
    element: h(
      "section",
      {class: "panel", "aria-labelledby": "timeline-title"},
      h("h2", {id: "timeline-title"}, "Timeline ", total),
      bar,
      list,
    ),
    update(job, now) {
      const stages = stagesOf(job);
      const newKey = JSON.stringify(stages);
      if (newKey !== key) {
        key = newKey;
        const many = stages.some((stage) => stage.attempt !== stages[0].attempt);
        shown = stages.map((stage) => row(stage, many, now));
        fill(
          bar,
          shown.map(({part}) => part),
        );
        fill(
          list,
          shown.map(({item}) => item),
        );
      }
      const widths = widthsOf(stages, now);
      stages.forEach((stage, index) => {
        shown[index].part.style.flexGrow = String(widths[index] * 1000);
        setText(shown[index].span, spanWords(stage, now) + (stage.end === null ? " so far" : ""));
      });
      const last = stages.at(-1);
      const whole = stages.length ? {begin: stages[0].begin, end: last.end} : null;
      setText(total, whole === null ? "" : `${spanWords(whole, now)} in all`);
    },
  };
}

function row(stage, many, now) {
  const span = h("span", {class: "figure"});
  const words = many ? `${stage.word} (attempt ${stage.attempt})` : stage.word;
  const data = {stage: stage.phase};
  return {
    span,
    part: h("span", {data, title: words}),
    item: h(
      "li",
      {data},
      h("span", {class: "stage-key", "aria-hidden": "true"}),
      h("span", {class: "stage-word"}, words),
      span,
      h("span", {class: "quiet figure"}, `from ${moment(stage.begin, now)}`),
    ),
  };
}
