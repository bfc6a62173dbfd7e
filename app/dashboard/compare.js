// Two to five jobs of one model, side by side.

import { fetchJson } from "./api.js";
import { chart, layout, MARKS, plain, series } from "./charts.js";
import { fill, h } from "./dom.js";
import { brief, bytes, counted, decibels, fixed, isSameModel, moment, ratio, spec, specBrief } from "./format.js";
import { loading, notice, problem } from "./notice.js";
import { overallSnr, section } from "./results.js";
import { amount, table } from "./table.js";

const MOST = 5;

export const title = () => "Compare";

export async function show(root, { query }, signal) {
  const wanted = (query.get("jobs") ?? "").split(",").filter(Boolean).slice(0, MOST);
  const head = h("div", { class: "pagehead" }, h("h1", { tabindex: -1 }, "Compare"));
  const body = h("div", { class: "stack" });
  fill(root, head, body);
  if (wanted.length < 2) return void (await choice(body, wanted, signal));
  fill(body, loading("Loading the reports…"));
  const loaded = await Promise.all(wanted.map((id) => load(id, signal)));
  const failed = loaded.filter((each) => each.error).map((each) => problem(each.error));
  const jobs = loaded.filter((each) => !each.error).sort((one, other) => one.report.bits_per_weight - other.report.bits_per_weight);
  jobs.forEach((each, at) => { each.letter = "ABCDE"[at]; });
  if (jobs.length < 2) return void fill(body, failed, notice("quiet", h("p", null, "There is no other job to compare."), h("a", { class: "button", href: "#/compare" }, "Choose jobs")));
  const others = jobs.filter((each) => !isSameModel(each.job, jobs[0].job));
  fill(body, failed, others.length > 0 && notice("warn", h("p", null, "These jobs may be of different models; tensors are matched by name.")),
    key(jobs), h("section", { class: "card" }, paretoChart(jobs).element), ...differences(jobs), await configs(jobs, signal));
}

async function load(id, signal) {
  const path = `/v1/jobs/${encodeURIComponent(id)}`;
  try {
    const [job, report] = await Promise.all([fetchJson(path, { signal }), fetchJson(`${path}/report`, { signal })]);
    return { job, report, snr: overallSnr(report), tensors: new Map(report.tensors.map((tensor) => [tensor.name, tensor])) };
  } catch (error) {
    if (signal.aborted || error.status === undefined) throw error;
    return { error: Object.assign(error, { title: `Job ${brief(id)}` }) };
  }
}

/** Choice of succeeded jobs, by model. */
async function choice(body, wanted, signal) {
  const page = await fetchJson("/v1/jobs?limit=200&state=succeeded", { signal });
  const models = [];
  for (const job of page.items.filter((each) => each.kind !== "scores")) {
    const same = models.find(([first]) => isSameModel(job, first));
    if (same) same.push(job);
    else models.push([job]);
  }
  const several = models.filter((jobs) => jobs.length > 1);
  if (several.length === 0) return void fill(body, notice("quiet", h("p", null, "A comparison needs two succeeded jobs of one model. Run the same model with another preset or config first."), h("a", { class: "button primary", href: "#/new" }, "New job")));
  fill(body, h("p", null, "Choose two to five jobs of one model."), several.map((jobs) => chooser(jobs, wanted)));
}

function chooser(jobs, wanted) {
  const boxes = jobs.map((job) => h("input", { type: "checkbox", value: job.id, id: `pick-${job.id}`, checked: wanted.includes(job.id) }));
  const go = h("a", { class: "button primary" }, "Compare");
  const draw = () => {
    const ids = boxes.filter((box) => box.checked).map((box) => box.value);
    for (const box of boxes) box.disabled = !box.checked && ids.length >= MOST;
    if (ids.length >= 2) {
      go.href = `#/compare?jobs=${ids.join(",")}`;
      go.removeAttribute("aria-disabled");
    } else {
      go.removeAttribute("href");
      go.setAttribute("aria-disabled", "true");
      go.setAttribute("role", "link");
    }
  };
  const rows = jobs.map((job, at) => h("div", { class: "tick" }, boxes[at], h("label", { for: boxes[at].id }, `${job.label ?? job.config_name ?? brief(job.id)} `,
    h("span", { class: "hint" }, `${bytes(job.size_after_bytes)}, ${ratio(job.size_before_bytes, job.size_after_bytes)} smaller, ${moment(job.created_at)}`))));
  const element = section(`${jobs[0].model_name}, ${bytes(jobs[0].size_before_bytes)}`, h("fieldset", { onchange: draw }, h("legend", { class: "unseen" }, `Jobs of ${jobs[0].model_name}`), rows), go);
  draw();
  return element;
}

/** A job's distinguishing name: its label, its config's name, or its most frequent spec. */
function displayName({ job, report }) {
  if (job.label ?? job.config_name) return job.label ?? job.config_name;
  const counts = new Map();
  for (const { spec: tensorSpec } of report.tensors) if (tensorSpec) counts.set(specBrief(tensorSpec), (counts.get(specBrief(tensorSpec)) ?? 0) + 1);
  const [most] = [...counts].sort((one, other) => other[1] - one[1]);
  return most ? most[0] : brief(job.id);
}

const labelled = (each) => `${each.letter} ${displayName(each)}`;

/** The legend of the jobs' letters. */
function key(jobs) {
  const columns = [
    { label: "Job", value: (row) => labelled(row), cell: (row) => h("span", null, h("strong", null, `${row.letter} `), h("a", { href: `#/jobs/${row.job.id}` }, displayName(row)), h("span", { class: "hint" }, ` ${brief(row.job.id)}`)) },
    { label: "Bits/weight", numeric: true, value: (row) => row.report.bits_per_weight, cell: (row) => fixed(row.report.bits_per_weight) },
    { label: "SNR dB", numeric: true, value: (row) => row.snr, cell: (row) => (row.snr === null ? "exact" : fixed(row.snr, 1)) },
    { label: "Tensors", numeric: true, value: (row) => row.report.size_after_bytes, cell: (row) => bytes(row.report.size_after_bytes) },
    { label: "Smaller", numeric: true, value: (row) => row.report.size_before_bytes / row.report.size_after_bytes, cell: (row) => ratio(row.report.size_before_bytes, row.report.size_after_bytes) },
    { label: "Palettized", numeric: true, value: (row) => row.report.tensors.filter((tensor) => tensor.action === "palettized").length },
  ];
  return section(`${jobs[0].job.model_name}`, table(columns, jobs, { name: "jobs", caption: "Compared jobs" }).element);
}

/** The Pareto front: jobs that no other beats in both size and SNR. */
export function pareto(jobs) {
  const value = (each) => each.snr ?? Number.POSITIVE_INFINITY;
  return jobs.filter((one) => !jobs.some((other) => other !== one && other.report.bits_per_weight <= one.report.bits_per_weight && value(other) >= value(one)
    && (other.report.bits_per_weight < one.report.bits_per_weight || value(other) > value(one))));
}

function paretoChart(jobs) {
  const front = pareto(jobs);
  const best = Math.max(...jobs.map((each) => each.snr ?? 0));
  const height = (each) => each.snr ?? best;
  return chart({
    title: "Size vs. error", name: "pareto", height: 320,
    note: `Higher is more accurate, further left is smaller. The line is the Pareto front, the jobs that no other job beats in both: ${front.map((each) => each.letter).join(", ")}.`,
    draw: (colours) => ({
      data: [
        { type: "scatter", mode: "lines", x: front.map((each) => each.report.bits_per_weight), y: front.map(height), line: { color: colours.muted, width: 1.5, dash: "dot" }, hoverinfo: "skip" },
        { type: "scatter", mode: "markers+text", x: jobs.map((each) => each.report.bits_per_weight), y: jobs.map(height), text: jobs.map((each) => each.letter), textposition: "top center", textfont: { size: 13, color: colours.ink }, cliponaxis: false,
          marker: { size: 13, color: jobs.map((_, at) => series(colours)[at]), symbol: jobs.map((_, at) => MARKS[at]), line: { width: 1, color: colours.surface } }, hoverinfo: "text",
          hovertext: jobs.map((each) => `${plain(labelled(each))}<br>${fixed(each.report.bits_per_weight)} bits per weight<br>${decibels(each.snr)}`) },
      ],
      layout: layout(colours, { margin: { l: 48, r: 24, t: 24, b: 40 }, xaxis: { title: "bits per weight, over the whole model" }, yaxis: { title: "SNR in dB" } }),
    }),
    columns: [
      { label: "Job", value: labelled },
      { label: "Bits per weight", numeric: true, value: (row) => row.report.bits_per_weight, cell: (row) => fixed(row.report.bits_per_weight, 3) },
      amount("SNR dB", "snr", fixed),
      { label: "On the Pareto front", value: (row) => (front.includes(row) ? "yes" : "no") },
    ],
    rows: jobs,
  });
}

/** Tensors that at least one job palettized. */
function matched(jobs) {
  const names = [...new Set(jobs.flatMap((each) => each.report.tensors.map((tensor) => tensor.name)))];
  return names.map((name) => ({ name, each: jobs.map((job) => job.tensors.get(name) ?? null) }))
    .filter(({ each }) => each.some((tensor) => tensor?.action === "palettized"))
    .map((row) => ({ ...row, spread: spread(row.each) }));
}

function spread(tensors) {
  const values = tensors.map((tensor) => tensor?.snr_db).filter((value) => value !== null && value !== undefined);
  return values.length > 1 ? Math.max(...values) - Math.min(...values) : null;
}

function differences(jobs) {
  const rows = matched(jobs).sort((one, other) => (other.spread ?? -1) - (one.spread ?? -1));
  const columns = [
    { label: "Tensor", value: (row) => row.name, cell: (row) => h("span", { class: "tensorname" }, row.name) },
    ...jobs.flatMap((job, at) => [
      { label: `${job.letter} SNR dB`, numeric: true, value: (row) => row.each[at]?.snr_db, cell: (row) => ({ kept: "kept", palettized: decibels(row.each[at]?.snr_db) })[row.each[at]?.action] ?? "–" },
      { label: `${job.letter} bits`, numeric: true, value: (row) => row.each[at]?.bits_per_weight, cell: (row) => fixed(row.each[at]?.bits_per_weight) },
    ]),
    amount("Spread dB", "spread", (value) => fixed(value, 1)),
  ];
  return [
    h("section", { class: "card" }, snrLines(jobs, rows, columns).element),
    section("Differences by tensor", table(columns, rows, { name: "differences", caption: "Differences by tensor", search: (row) => row.name }).element),
  ];
}

function snrLines(jobs, rows, columns) {
  return chart({
    title: "SNR of each tensor", name: "differences", note: "Tensors with the largest difference come first.", height: 300, columns, rows, search: (row) => row.name,
    draw: (colours) => ({
      data: jobs.map((job, at) => ({
        type: "scatter", mode: "markers", name: plain(labelled(job)), x: rows.map((_, index) => index + 1), y: rows.map((row) => row.each[at]?.snr_db ?? null),
        marker: { size: rows.length > 300 ? 4 : 7, color: series(colours)[at], symbol: MARKS[at] }, hoverinfo: "text",
        hovertext: rows.map((row) => `${job.letter} ${plain(row.name)}<br>${decibels(row.each[at]?.snr_db)} · ${fixed(row.each[at]?.bits_per_weight)} bits per weight`),
      })),
      layout: layout(colours, { showlegend: true, legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 }, margin: { l: 48, r: 12, t: 8, b: 40 }, xaxis: { title: "tensors", showgrid: false, dtick: rows.length <= 12 ? 1 : null }, yaxis: { title: "SNR in dB" } }),
    }),
  });
}

/** The differences between the configs, and their texts. */
async function configs(jobs, signal) {
  const groups = new Map();
  for (const { each } of matched(jobs)) {
    const specs = each.map((tensor) => (tensor?.action === "palettized" ? spec(tensor.spec) : tensor ? `kept: ${tensor.reason}` : "missing"));
    if (new Set(specs).size === 1) continue;
    const name = JSON.stringify(specs);
    groups.set(name, { specs, rules: each.map((tensor) => tensor?.rule), tensors: (groups.get(name)?.tensors ?? 0) + 1 });
  }
  const rows = [...groups.values()].sort((one, other) => other.tensors - one.tensors);
  const columns = [
    amount("Tensors", "tensors"),
    ...jobs.map((job, at) => ({ label: labelled(job), value: (row) => row.specs[at], cell: (row) => h("span", null, row.specs[at], row.rules[at] && h("code", { class: "below" }, row.rules[at])) })),
  ];
  return section("How the configs differ", rows.length
    ? table(columns, rows, { name: "configs", caption: "Specs where the configs differ" }).element
    : h("p", { class: "hint" }, "The configs give the same spec for every tensor."), await texts(jobs, signal));
}

async function texts(jobs, signal) {
  const elements = await Promise.all(jobs.map(async (each) => {
    const config = await fetchJson(each.job.links.config, { signal }).catch((error) => error);
    return h("div", null, h("h3", null, labelled(each)), config instanceof Error ? problem(config) : h("pre", { tabindex: 0 }, JSON.stringify(config, null, 1)));
  }));
  return h("details", null, h("summary", null, `Text of ${counted(jobs.length, "config")}`), h("div", { class: "columns" }, elements));
}
