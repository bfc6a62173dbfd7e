// A standalone report: all data is in its file.

import { fill, h } from "./dom.js";
import { evaluationSection } from "./evaluation.js";
import { snrChart } from "./figures.js";
import { brief, bytes, counted, moment } from "./format.js";
import { notice } from "./notice.js";
import { charts, numbers } from "./panel.js";
import { facts, keptSection, moduleSection, section, summary, targetSection, tensorTable, unmatchedList, warningList } from "./results.js";
import { amount, table, words } from "./table.js";
import { treemapChart } from "./treemap.js";

/** JSON embedded in the page, or null. */
function stored(id) {
  const element = document.getElementById(id);
  return element && JSON.parse(element.textContent);
}

/** The panel of the selected tensor. */
function panel(report, statistics) {
  const byName = new Map(statistics.map((each) => [each.name, each]));
  const place = h("section", { class: "card", "aria-live": "polite", hidden: true });
  function show(name, { scroll = true } = {}) {
    const tensor = report.tensors.find((each) => each.name === name);
    if (!tensor) return;
    const head = h("h2", { tabindex: -1 }, tensor.name);
    place.hidden = false;
    fill(place, head, numbers(tensor), byName.has(name) ? charts(byName.get(name)).map((each) => each.element) : notice("quiet", h("p", null, "There are no statistics for this tensor.")));
    if (!scroll) return;
    place.scrollIntoView({ block: "start" });
    head.focus({ preventScroll: true });
  }
  return { place, show };
}

function exported(report) {
  const exports = report.exports ?? [];
  return exports.length > 0 && section("Exports", table([
    words("Format", "format"),
    amount("Size", "size_bytes", bytes),
    { label: "Kept dense", value: (row) => (row.dense ?? []).join(", ") || "nothing" },
    { label: "SHA-256", value: (row) => row.sha256, cell: (row) => h("code", null, row.sha256) },
  ], exports, { name: "exports", caption: "Export formats" }).element);
}

function origin(report, job) {
  const files = Object.entries(report.artifact_sha256);
  return section("Provenance",
    job && facts([["Job", h("code", null, job.id)], job.label && ["Label", job.label], job.config_name && ["Config", job.config_name], job.created_at && ["Submitted", moment(job.created_at)], job.ended_at && ["Ended", moment(job.ended_at)]]),
    table([{ label: "Artifact file", value: ([name]) => name }, { label: "SHA-256", value: ([, sha256]) => sha256, cell: ([, sha256]) => h("code", null, sha256) }], files, { name: "files", caption: "Artifact files" }).element,
    table([{ label: "Software", value: ([name]) => name }, { label: "Version", value: ([, version]) => version }], Object.entries(report.software), { name: "software", caption: "Software" }).element);
}

function show() {
  const [report, statistics, job] = [stored("report"), stored("statistics") ?? [], stored("job")];
  const name = job?.model_name ?? "model";
  document.title = `${name} · Palettery`;
  const chosen = panel(report, statistics);
  const tensors = tensorTable(report, (row) => () => chosen.show(row.name), (row) => { bars.pick(row.name); tensors.pick(row.name); }, "tensors");
  const bars = snrChart(report, (tensor) => { tensors.pick(tensor); chosen.show(tensor, { scroll: false }); });
  fill(document.getElementById("view"), h("div", { class: "view" },
    h("div", { class: "pagehead" }, h("div", null, h("h1", null, name), h("p", { class: "hint" }, `${counted(report.tensors.length, "tensor")}${job ? `, job ${brief(job.id)}` : ""}`))),
    evaluationSection(report), unmatchedList(report.unmatched), warningList(report.warnings), targetSection(report, job?.size_after_bytes), summary(report),
    h("section", { class: "card" }, treemapChart(report, (tensor) => chosen.show(tensor)).element),
    h("section", { class: "card" }, bars.element, tensors.element),
    chosen.place, keptSection(report), moduleSection(report), exported(report), origin(report, job)));
}

show();
