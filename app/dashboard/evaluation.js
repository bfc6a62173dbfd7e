// What became of a model's outputs, for the job page and the standalone report.

import { h } from "./dom.js";
import { bytes, counted, decibels, fixed, short } from "./format.js";
import { section } from "./results.js";
import { amount, table } from "./table.js";

/** The evaluation of a report: goals first, then a line for each output. */
export function evaluationSection(report) {
  const evaluation = report.evaluation;
  if (!evaluation) return false;
  const logits = evaluation.outputs.filter((output) => output.logits);
  return section("Evaluation", goals(evaluation), trail(report), outputs(evaluation), logits.map(classes),
    h("p", { class: "hint" }, `Outputs of the model before and after, on ${counted(evaluation.samples, "sample")}; cosines are of each sample.`),
    evaluation.warnings.map((warning) => h("p", { class: "notice warn" }, warning)));
}

/** Each goal, and which outputs miss it. */
function goals({ goals: required, missed }) {
  if (!required?.length) return null;
  const line = (goal) => {
    const misses = missed.filter((each) => each.goal === goal);
    const measured = misses.map((each) => `${each.output || "the output"} has ${each.reached === null ? "nothing" : fixed(each.reached, 4)}`).join(", ");
    return h("li", null, h("code", null, goal), misses.length ? ` required, not reached: ${measured}` : " required, reached");
  };
  return h("div", { class: missed.length ? "notice warn" : "notice quiet" },
    h("strong", null, missed.length ? "The required quality was not reached" : "The required quality was reached"), h("ul", null, required.map(line)));
}

/** The sizes that were measured to find the smallest of a quality. */
function trail({ allocation }) {
  const measured = allocation?.measured ?? [];
  if (measured.length === 0) return null;
  const measures = Object.keys(measured[0].reached);
  const outcome = (row) => `${row.is_reached ? "reached" : "not reached"}${row.size_bytes === allocation.size_bytes ? ", chosen" : ""}`;
  return table([
    amount("Size", "size_bytes", bytes),
    ...measures.map((name) => ({ label: name, numeric: true, value: (row) => row.reached[name], cell: (row) => fixed(row.reached[name], 5) })),
    { label: "Expected error", numeric: true, value: (row) => row.error, cell: (row) => short(row.error) },
    { label: "Quality", value: outcome },
  ], [...measured].sort((one, other) => one.size_bytes - other.size_bytes), { name: "measured", caption: "Sizes that were measured" }).element;
}

function outputs({ outputs: rows }) {
  const cosine = (name) => (row) => row.sample_cosine[name];
  const column = (label, value) => ({ label, numeric: true, value, cell: (row) => fixed(value(row), 5) });
  return table([
    { label: "Output", value: (row) => row.name, cell: (row) => h("code", null, row.name || "(output)") },
    column("Cosine, mean", cosine("mean")),
    column("5th percentile", cosine("p5")),
    column("Least", cosine("min")),
    { label: "SNR", numeric: true, value: (row) => row.snr_db, cell: (row) => decibels(row.snr_db) },
    { label: "Largest error", numeric: true, value: (row) => row.max_error, cell: (row) => short(row.max_error) },
  ], rows, { name: "evaluation", caption: "Outputs before and after", page: 10 }).element;
}

function classes({ name, logits }) {
  const share = (value) => `${fixed(100 * value, 1)} %`;
  const labels = logits.accuracy_before !== null && `; accuracy ${share(logits.accuracy_before)} → ${share(logits.accuracy_after)}, loss ${short(logits.loss_before)} → ${short(logits.loss_after)}`;
  return h("p", null, h("code", null, name || "(output)"), `: same top class at ${share(logits.top1_agreement)} of positions, KL divergence ${short(logits.kl_divergence)}`, labels);
}
