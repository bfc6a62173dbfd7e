// Progress of a job, and remaining time.

import { h } from "./dom.js";
import { bytes, count, duration } from "./format.js";

const ENDED = new Set(["succeeded", "failed", "cancelled"]);
const LEAST_S = 1;

/** Whether a job has reached its last state. */
export function hasEnded(job) {
  return ENDED.has(job.state);
}

/** A badge with a job's state, readable without colours. */
export function badge(state) {
  return h("span", { class: `badge ${state}` }, state);
}

/** A progress bar with tensors, bytes and remaining time: `{element, update(job)}`. */
export function progress() {
  const bar = h("progress", { max: 1, "aria-label": "progress" });
  const words = h("span", { class: "hint" });
  const element = h("div", { class: "progress" }, bar, words);
  let first = null;

  function secondsLeft(job, now) {
    const { bytes_done: done, bytes_total: total } = job.progress;
    if (first === null || first.attempt !== job.attempt || done < first.done) first = { at: now, done, attempt: job.attempt };
    const passed = (now - first.at) / 1000;
    return passed >= LEAST_S && done > first.done ? ((total - done) * passed) / (done - first.done) : null;
  }

  function update(job) {
    element.hidden = job.state !== "running";
    if (element.hidden) return;
    const { tensors_done, tensors_total, bytes_done, bytes_total } = job.progress;
    const left = secondsLeft(job, performance.now());
    bar.value = bytes_total ? bytes_done / bytes_total : 1;
    const of = [`${count(tensors_done)} of ${count(tensors_total)} tensors`, `${bytes(bytes_done)} of ${bytes(bytes_total)}`];
    if (bytes_total && bytes_done === bytes_total) of.push("writing and verifying the artifact");
    else if (left !== null) of.push(`about ${duration(left)} left`);
    words.textContent = of.join(" · ");
  }

  return { element, update };
}
