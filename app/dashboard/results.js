// Sections of a report, shared by the job page and the standalone report.

import { button, h } from "./dom.js";
import { bytes, count, counted, decibels, duration, fixed, percent, ratio, shape, short, spec, specBrief } from "./format.js";
import { amount, table, words } from "./table.js";

/** A section of a page, with its heading. */
export function section(title, ...children) {
  return h("section", { class: "card" }, h("h2", null, title), ...children);
}

/** Names and values, side by side. */
export function facts(pairs) {
  return h("dl", { class: "facts" }, pairs.filter(Boolean).map(([name, value]) => h("div", null, h("dt", null, name), h("dd", null, value))));
}

/** Signal-to-noise ratio over all palettized tensors, in dB; null without error. */
export function overallSnr(report) {
  let [signal, noise] = [0, 0];
  for (const { action, snr_db, sse } of report.tensors) {
    if (action !== "palettized" || snr_db === null) continue;
    signal += sse * 10 ** (snr_db / 10);
    noise += sse;
  }
  return noise > 0 ? 10 * Math.log10(signal / noise) : null;
}

const palettized = (report) => report.tensors.filter((tensor) => tensor.action === "palettized");

/** Summary: sizes as bars, and key figures. */
export function summary(report) {
  const { size_before_bytes: before, size_after_bytes: after } = report;
  const [chosen, chosenAfter] = [report.palettized_size_before_bytes, report.palettized_size_after_bytes];
  const done = palettized(report);
  const seconds = done.reduce((sum, tensor) => sum + tensor.seconds, 0);
  return section(
    "Result",
    h("div", { class: "bars" }, sizeBar("Before", chosen, before, before), sizeBar("After", chosenAfter, after, before)),
    h("p", { class: "legend hint" }, h("span", { class: "key palettized" }), "palettized ", h("span", { class: "key kept" }), "unchanged"),
    facts([
      ["Smaller by", ratio(before, after)],
      ["Bits per weight", fixed(report.bits_per_weight)],
      ["SNR of palettized tensors", decibels(overallSnr(report))],
      ["Palettized", `${count(done.length)} of ${counted(report.tensors.length, "tensor")}`],
      ["Kernel time", duration(seconds)],
      ["Reused results", count(done.filter((tensor) => tensor.reused).length)],
    ]),
  );
}

function sizeBar(label, part, whole, scale) {
  const width = (size) => ({ width: `${(size / (scale || 1)) * 100}%` });
  return h("div", { class: "sizebar" }, h("span", { class: "label" }, label),
    h("div", { class: "track" }, h("span", { class: "palettized", style: width(part) }), h("span", { class: "kept", style: width(whole - part) })),
    h("span", { class: "number" }, bytes(whole)));
}

/** Columns of the table of tensors; `link(row)` is the target of a tensor's name. */
function columns(link) {
  return [
    { label: "Tensor", value: (row) => row.name, cell: (row) => name(row, link) },
    { label: "Shape", value: (row) => shape(row.shape), sort: (row) => row.shape.reduce((a, b) => a * b, 1), cell: (row) => h("span", { class: "brief" }, `${shape(row.shape)} ${row.dtype}`) },
    { label: "Spec", value: (row) => (row.spec ? spec(row.spec) : "kept"), cell: (row) => (row.spec ? h("span", { class: "brief", title: spec(row.spec) }, specBrief(row.spec)) : "kept") },
    { label: "SNR dB", numeric: true, value: (row) => row.snr_db, cell: (row) => (row.action === "kept" ? "–" : row.snr_db === null ? "exact" : fixed(row.snr_db, 1)) },
    { label: "Max error", numeric: true, value: (row) => (row.action === "kept" ? null : row.max_error), cell: (row) => (row.action === "kept" ? "–" : short(row.max_error)) },
    amount("Bits/weight", "bits_per_weight", fixed),
    amount("Before", "size_before_bytes", bytes),
    amount("After", "size_after_bytes", bytes),
    { label: "Rule", value: (row) => row.rule, cell: (row) => row.rule && h("code", null, row.rule) },
  ];
}

function name(row, link) {
  const where = row.action === "palettized" && link(row);
  const shown = where ? (typeof where === "string" ? h("a", { href: where }, row.name) : button(row.name, where, { class: "link" })) : row.name;
  return h("span", { class: "tensorname" }, shown, row.aliases.length > 0 && h("span", { class: "hint" }, ` also ${row.aliases.join(", ")}`));
}

/** The table of all tensors, lowest SNR first. */
export function tensorTable(report, link, onpick, file) {
  return table(columns(link), report.tensors, {
    name: file, caption: "Tensors", search: (row) => `${row.name} ${row.module_type ?? ""} ${row.aliases.join(" ")}`,
    key: (row) => row.name, onpick, order: { by: 3, down: false }, page: 25,
  });
}

/** Unchanged tensors, by reason. */
export function keptSection(report) {
  const reasons = new Map();
  for (const tensor of report.tensors.filter((each) => each.action === "kept")) {
    const why = tensor.reason ?? "no reason given";
    reasons.set(why, [...(reasons.get(why) ?? []), tensor]);
  }
  const groups = [...reasons].sort((one, other) => other[1].length - one[1].length).map(([why, tensors]) => {
    const size = tensors.reduce((sum, tensor) => sum + tensor.size_before_bytes, 0);
    const details = h("details", { class: "reason" }, h("summary", null, why, h("span", { class: "hint" }, ` ${counted(tensors.length, "tensor")}, ${bytes(size)}, ${percent(size, report.size_before_bytes)}`)));
    details.addEventListener("toggle", () => {
      if (details.open && details.children.length === 1) details.append(table([
        words("Tensor", "name"),
        { label: "Shape", value: (row) => shape(row.shape) },
        amount("Bytes", "size_before_bytes", bytes),
        { label: "Rule", value: (row) => row.rule, cell: (row) => row.rule && h("code", null, row.rule) },
      ], tensors, { name: "kept", caption: why, page: 20 }).element);
    });
    return details;
  });
  return section("Unchanged tensors", groups.length ? groups : h("p", { class: "hint" }, "Every tensor was palettized."));
}

/** What was expected of the choice for a target, beside what was measured; `size` is that of the artifact's files. */
export function targetSection(report, size) {
  const { allocation } = report;
  if (!allocation) return null;
  const chosen = allocation.measured?.find((each) => each.size_bytes === allocation.size_bytes);
  const rows = [
    { what: "Size", expected: bytes(allocation.size_bytes), measured: bytes(size) },
    allocation.weighted ? { what: "Error of weights, by sensitivities", expected: short(allocation.error), measured: "–" }
      : { what: "Error of weights, relative", expected: short(allocation.error), measured: short(relativeError(report)) },
    ...Object.entries(chosen?.reached ?? {}).map(([name, value]) => ({ what: `${name} of outputs`, expected: required(report, name), measured: fixed(value, 5) })),
  ];
  return section("Target", table([words("Measure", "what"), words("Expected", "expected"), words("Measured", "measured")], rows, { name: "target", caption: "Expected and measured" }).element,
    allocation.notes.map((note) => h("p", { class: "hint" }, note)));
}

/** The sum over the chosen tensors of squared error over squared weights, as a target without sensitivities counts it. */
function relativeError({ allocation, tensors }) {
  const relative = new Map(tensors.map((tensor) => [tensor.name, tensor.snr_db === null ? 0 : 10 ** (-tensor.snr_db / 10)]));
  return allocation.tensors.reduce((sum, tensor) => sum + relative.get(tensor.name), 0);
}

/** The least of a measure that the target allows, from goals such as `cosine.p5=0.98`. */
function required({ evaluation }, name) {
  const goal = evaluation?.goals?.find((each) => each.startsWith(`${name}=`));
  return goal ? `at least ${goal.slice(name.length + 1)}` : "–";
}

/** Config keys that matched nothing. */
export function unmatchedList(unmatched) {
  return unmatched.length > 0 && h("div", { class: "notice warn" }, h("strong", null, `${counted(unmatched.length, "key")} of the config matched no tensor`),
    h("ul", null, unmatched.map((each) => h("li", null, h("code", null, each.path), ` ${each.reason}`,
      each.suggestions.length > 0 && h("span", { class: "hint" }, ` Did you mean: ${each.suggestions.join(", ")}`)))));
}

/** Warnings. */
export function warningList(warnings) {
  return warnings.length > 0 && h("div", { class: "notice warn" }, h("strong", null, counted(warnings.length, "warning")), h("ul", null, warnings.map((each) => h("li", null, each))));
}

/** Bits per weight of each module. */
export function moduleSection(report) {
  const modules = report.modules ?? [];
  return modules.length > 0 && section("Modules", table([
    { label: "Module", value: (row) => row.name, cell: (row) => row.name || "(root)" },
    amount("Weights", "weights", count),
    amount("Bits/weight", "bits_per_weight", fixed),
    amount("Before", "size_before_bytes", bytes),
    amount("After", "size_after_bytes", bytes),
  ], modules, { name: "modules", caption: "Bits per weight by module", search: (row) => row.name, order: { by: 4, down: true }, page: 20 }).element);
}
