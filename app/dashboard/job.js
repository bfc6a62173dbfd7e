// One job: its progress, then its result.

import { actions } from "./actions.js";
import { fetchJson, follow } from "./api.js";
import { expectCharts } from "./charts.js";
import { button, fill, h } from "./dom.js";
import { download } from "./downloads.js";
import { evaluationSection } from "./evaluation.js";
import { snrChart } from "./figures.js";
import { brief, bytes, count, fixed, moment } from "./format.js";
import { loading, notice, problem } from "./notice.js";
import { badge, hasEnded, progress } from "./progress.js";
import { facts, keptSection, moduleSection, section, summary, targetSection, tensorTable, unmatchedList, warningList } from "./results.js";
import { timeline } from "./timeline.js";
import { treemapChart } from "./treemap.js";

const MOST_LINES = 2_000;

export const title = ({ words }) => `Job ${brief(words[0])}`;

export async function show(root, { words: [id] }, signal) {
  const path = `/v1/jobs/${encodeURIComponent(id)}`;
  expectCharts();
  const job = await fetchJson(path, { signal });
  const view = { ...skeleton(job), path, signal, job: null, drawn: "" };
  fill(root, view.head, view.status, view.bar.element, view.facts, view.results, section("Timeline", view.stages.element, view.log));
  draw(view, job);
  follow(`${path}/events`, { signal, onevent: (type, data) => take(view, type, data) })
    .catch((error) => fill(view.status, problem(error, h("a", { class: "button", href: "#/jobs" }, "Go to jobs"))));
}

function skeleton(job) {
  const state = h("span");
  const acts = h("div", { class: "row" });
  const log = h("ol", { class: "log", "aria-label": "Log", tabindex: 0 });
  const head = h("div", { class: "pagehead" }, h("div", null, h("p", { class: "crumb" }, h("a", { href: "#/jobs" }, "Jobs"), " / ", h("code", null, job.id)), h("h1", { tabindex: -1 }, job.model_name, " ", state)), acts);
  return { head, state, acts, log, status: h("div"), facts: h("div"), results: h("div", { class: "stack" }), bar: progress(), stages: timeline() };
}

/** Handle an event of the job's stream. */
function take(view, type, data) {
  if (type === "log") {
    view.stages.log(data);
    logged(view, data);
  } else if (type === "progress") draw(view, { ...view.job, progress: data });
  else if (type === "state") {
    view.stages.state(data);
    if (isNewer(data, view.job)) draw(view, data);
  }
}

/** The stream starts with the first event; events older than the fetched job are ignored. */
function isNewer(event, job) {
  const rank = (each) => each.attempt * 3 + (hasEnded(each) ? 2 : each.state === "running" ? 1 : 0);
  return rank(event) >= rank(job);
}

function logged(view, line) {
  if (view.log.children.length >= MOST_LINES) view.log.firstChild.remove();
  const isAtEnd = view.log.scrollTop + view.log.clientHeight >= view.log.scrollHeight - 4;
  view.log.append(h("li", { class: line.level }, h("time", { datetime: line.at, title: moment(line.at) }, new Date(line.at).toLocaleTimeString("en-GB")),
    line.level !== "info" && h("strong", null, `${line.level} `), h("span", null, line.message, line.tensor && h("code", null, ` ${line.tensor}`))));
  if (isAtEnd) view.log.scrollTop = view.log.scrollHeight;
}

function draw(view, job) {
  const before = view.job;
  view.job = job;
  view.bar.update(job);
  const key = JSON.stringify([job.state, job.attempt]);
  if (key === view.drawn) return;
  view.drawn = key;
  fill(view.state, badge(job.state));
  const isScoring = job.kind === "scores";
  const again = !isScoring && h("a", { class: "button small", href: `#/new?job=${job.id}` }, "Run again with changes");
  fill(view.acts, again, actions(job, (other) => (other ? draw(view, other) : (location.hash = "#/jobs")), (error) => fill(view.status, problem(error))));
  fill(view.facts, about(job));
  fill(view.status, job.error && problem({ ...job.error, message: job.error.detail }));
  if (job.links.report) report(view, before !== null);
  else if (job.state === "succeeded" && isScoring) fill(view.results, notice("quiet", h("p", null, "The errors of every tensor at every width are stored: a new job of this model may have a size as its goal.")));
  else fill(view.results, job.state === "queued" ? notice("quiet", h("p", null, "The job is queued; its progress will be shown here.")) : null);
}

function about(job) {
  const model = job.links.model;
  return facts([
    job.label && ["Label", job.label],
    job.kind === "scores" ? ["Kind", "scores of a model, for targets"] : ["Config", job.target ? "chosen for the target" : job.config_name ?? "unnamed"],
    job.target && ["Target", targetText(job.target)],
    job.predicted_size_bytes && ["Predicted size", bytes(job.predicted_size_bytes)],
    model && ["Model", h("code", null, brief(job.model_id))],
    ["Model size", bytes(job.size_before_bytes)],
    ["Submitted", moment(job.created_at)],
    ["Priority", `${job.priority} of 9`],
    job.attempt > 0 && ["Attempt", count(job.attempt + 1)],
    job.evaluation?.cosine && ["Cosine of outputs", fixed(job.evaluation.cosine.mean, 4)],
    job.deadline_at && ["Deadline", moment(job.deadline_at)],
    job.expires_at && ["Deleted on", moment(job.expires_at)],
  ]);
}

/** A target as people read it: a size, or the least of each measure of a quality. */
function targetText(target) {
  const given = (object) => Object.entries(object).filter(([, value]) => value !== null);
  if (target.quality) {
    const percentiles = { 5: ".p5", 0: ".min" };
    const measures = given(target.quality).filter(([name]) => name !== "percentile");
    return measures.map(([name, least]) => `${name}${name === "cosine" ? percentiles[target.quality.percentile] ?? "" : ""} at least ${least}`).join(", ");
  }
  const [[name, value]] = given(target);
  return name === "size_bytes" ? bytes(value) : `${name.replaceAll("_", " ")} ${value}`;
}

async function report(view, isLive) {
  fill(view.results, loading(isLive ? "The job has ended; loading the report…" : "Loading the report…"));
  try {
    const loaded = await fetchJson(`${view.path}/report`, { signal: view.signal });
    fill(view.results, results(view.job, loaded));
  } catch (error) {
    if (!view.signal.aborted) fill(view.results, problem(error, button("Try again", () => report(view, isLive))));
  }
}

function results(job, report) {
  const where = (name) => `#/jobs/${job.id}/tensors/${encodeURIComponent(name)}`;
  const open = (name) => { location.hash = where(name); };
  const tensors = tensorTable(report, (row) => where(row.name), (row) => { bars.pick(row.name); tensors.pick(row.name); }, `tensors-${brief(job.id)}`);
  const bars = snrChart(report, (name) => tensors.pick(name));
  return [
    evaluationSection(report), unmatchedList(report.unmatched), warningList(report.warnings), targetSection(report, job.size_after_bytes), summary(report), files(job, report),
    h("section", { class: "card" }, treemapChart(report, open).element),
    h("section", { class: "card" }, bars.element, tensors.element),
    keptSection(report), moduleSection(report),
  ];
}

/** All there is to download. */
function files(job, report) {
  const path = `/v1/jobs/${job.id}`;
  const own = Object.entries(report.artifact_sha256).map(([name, sha256], _, all) =>
    ({ path: `${path}/artifact/${encodeURIComponent(name)}`, name, label: name, sha256, size: all.length === 1 ? job.size_after_bytes : undefined, command: `palettery download ${job.id}` }));
  const exported = (report.exports ?? []).map(({ format, sha256, size_bytes }) => ({ path: `${path}/exports/${format}`, name: `${job.model_name}.${format}`, label: format, sha256, size: size_bytes }));
  const reports = ["json", "csv", "html"].map((kind) => ({ path: `${path}/report${kind === "json" ? "" : `.${kind}`}`, name: `report-${brief(job.id)}.${kind}`, label: kind.toUpperCase() }));
  const config = [{ path: job.links.config, name: `config-${brief(job.id)}.json`, label: "config.json" }];
  const group = (name, items) => items.length > 0 && h("div", null, h("h3", null, name), h("ul", { class: "files" }, items.map(download)));
  return section("Downloads", h("div", { class: "columns" }, group("Artifact", own), group("Exports", exported), group("Report", reports), group("Config", config)));
}
