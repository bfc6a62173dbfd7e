// One tensor of a job.

import { ApiError, fetchJson } from "./api.js";
import { expectCharts } from "./charts.js";
import { fill, h } from "./dom.js";
import { brief } from "./format.js";
import { loading, notice, problem } from "./notice.js";
import { charts, numbers } from "./panel.js";
import { section } from "./results.js";

export const title = ({ words }) => words[1];

export async function show(root, { words: [id, name] }, signal) {
  const path = `/v1/jobs/${encodeURIComponent(id)}`;
  expectCharts();
  const [job, report] = await Promise.all([fetchJson(path, { signal }), fetchJson(`${path}/report`, { signal })]);
  const at = report.tensors.findIndex((each) => each.name === name || each.aliases.includes(name));
  const tensor = report.tensors[at];
  const crumb = h("p", { class: "crumb" }, h("a", { href: "#/jobs" }, "Jobs"), " / ", h("a", { href: `#/jobs/${id}` }, `${job.model_name} ${brief(id)}`));
  const head = h("div", { class: "pagehead" }, h("div", null, crumb, h("h1", { tabindex: -1, class: "long" }, name)), tensor && steps(report, id, at));
  if (!tensor) return void fill(root, head, notice("bad", h("p", null, `The report of this job has no tensor ${name}.`)));
  if (tensor.action === "kept") return void fill(root, head, notice("quiet", h("p", null, `This tensor is unchanged: ${tensor.reason}`)), section("Numbers", numbers(tensor)));
  const pictures = h("div", { class: "stack" }, loading("Loading its statistics…"));
  fill(root, head, section("Numbers", numbers(tensor)), pictures);
  try {
    const statistics = await fetchJson(`${path}/statistics?tensor=${encodeURIComponent(tensor.name)}`, { signal });
    fill(pictures, charts(statistics).map((each) => h("section", { class: "card" }, each.element)));
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    fill(pictures, problem(error));
  }
}

/** Links to the palettized tensors before and after. */
function steps(report, id, at) {
  const near = (way) => {
    for (let other = at + way; report.tensors[other]; other += way) if (report.tensors[other].action === "palettized") return report.tensors[other];
    return null;
  };
  const link = (label, tensor) => tensor && h("a", { class: "button small", href: `#/jobs/${id}/tensors/${encodeURIComponent(tensor.name)}`, title: tensor.name }, label);
  return h("div", { class: "row" }, link("Previous tensor", near(-1)), link("Next tensor", near(1)));
}
