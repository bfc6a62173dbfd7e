// Stages of a job, from its events.

import { fill, h } from "./dom.js";
import { between, duration, moment } from "./format.js";
import { hasEnded } from "./progress.js";

/** Log lines that start a stage. */
const MARKS = [[/artifact is written/, "checking"], [/read back, and agrees/, "finishing"]];
const LABELS = { queued: "waiting", running: "palettizing", checking: "verifying", finishing: "exports, report" };

/** A timeline that shows the duration of each stage: `{element, state(job), log(line)}`. */
export function timeline() {
  const stages = [];
  let last = null;
  const bar = h("div", { class: "stages", role: "img" });
  const list = h("ol", { class: "stagelist" });

  function open(kind, at) {
    const current = stages.at(-1);
    if (current && current.to === null) current.to = at;
    if (kind) stages.push({ kind, from: at, to: null });
    last = at;
    draw();
  }

  function state(job) {
    const current = stages.at(-1);
    if (hasEnded(job)) open(null, job.ended_at ?? last);
    else if (current?.kind !== job.state || current.to !== null) {
      open(job.state, job.state === "queued" ? (stages.length ? last : job.created_at) : (job.started_at ?? last));
    }
  }

  function log(line) {
    last = line.at;
    const current = stages.at(-1);
    const mark = MARKS.find(([words]) => words.test(line.message));
    if (mark && current?.to === null && current.kind !== mark[1]) open(mark[1], line.at);
  }

  function draw() {
    const end = Date.now();
    const seconds = (stage) => Math.max(0, between(stage.from, stage.to ?? new Date(end).toISOString()));
    const whole = stages.reduce((sum, stage) => sum + seconds(stage), 0) || 1;
    fill(bar, stages.map((stage) => h("span", { class: `stage ${stage.kind}`, style: { "flex-grow": String(Math.max(seconds(stage) / whole, 0.004)) } })));
    bar.setAttribute("aria-label", stages.map((stage) => `${LABELS[stage.kind]} ${stage.to ? duration(seconds(stage)) : "now"}`).join(", "));
    fill(list, stages.map((stage) => h("li", null, h("span", { class: `key ${stage.kind}` }), h("strong", null, LABELS[stage.kind]), ` ${stage.to ? duration(seconds(stage)) : "now"} `, h("span", { class: "hint" }, `from ${moment(stage.from)}`))));
  }

  return { element: h("div", { class: "timeline" }, bar, list), state, log };
}
