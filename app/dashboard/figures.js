// Charts of one report.

import { blend, chart, layout, plain } from "./charts.js";
import { freshId, h } from "./dom.js";
import { bytes, decibels, fixed, percent, shape, spec } from "./format.js";
import { amount, words } from "./table.js";

/** Modules and tensors as a tree with their bytes, for a treemap; ids are no names, which may be any text. */
function tree(report) {
  const nodes = new Map([["0:", { id: "0:", label: "model", parent: "", before: 0, after: 0, chosen: 0, name: "" }]]);
  for (const tensor of report.tensors) {
    const words = tensor.name.split(".");
    const key = (depth) => (depth === words.length ? `tensor:${tensor.name}` : `${depth}:${words.slice(0, depth).join(".")}`);
    for (let depth = 0; depth <= words.length; depth += 1) {
      const id = key(depth);
      if (!nodes.has(id)) nodes.set(id, { id, label: words[depth - 1] || "·", parent: key(depth - 1), before: 0, after: 0, chosen: 0, name: words.slice(0, depth).join("."), tensor: depth === words.length ? tensor : null });
      const node = nodes.get(id);
      node.before += tensor.size_before_bytes;
      node.after += tensor.size_after_bytes;
      if (tensor.action === "palettized") node.chosen += tensor.size_before_bytes;
    }
  }
  return [...nodes.values()];
}

/** Where the bytes are, before and after; `onopen` gets the tensor that was clicked. */
export function treemapChart(report, onopen) {
  const nodes = tree(report);
  const leaves = nodes.filter((node) => node.tensor);
  const narrow = matchMedia("(max-width: 700px)").matches;
  const trace = (colours, size, whole, domain, isFirst) => ({
    type: "treemap", branchvalues: "total", ids: nodes.map((node) => node.id), domain, maxdepth: 4, sort: true,
    labels: nodes.map((node) => plain(node.parent ? node.label : isFirst ? "Before" : "After")),
    parents: nodes.map((node) => node.parent), values: nodes.map((node) => node[size]),
    customdata: nodes.map((node) => node.tensor?.name ?? null),
    text: nodes.map((node) => bytes(node[size])), texttemplate: "%{label}<br>%{text}",
    hovertext: nodes.map((node) => `${plain(node.name || "model")}<br>${bytes(node.before)} → ${bytes(node.after)}<br>${percent(node[size], whole)} of all${node.tensor ? `<br>${node.tensor.action === "kept" ? "kept" : `${fixed(node.tensor.bits_per_weight)} bits per weight`}` : ""}`),
    hoverinfo: "text", pathbar: { visible: true, thickness: 18, textfont: { size: 11 } }, tiling: { pad: 1 },
    marker: { colors: nodes.map((node) => blend(colours.kept, colours.accent, node.before ? node.chosen / node.before : 0)), line: { width: 1, color: colours.surface }, pad: { t: 20, l: 2, r: 2, b: 2 } }, textfont: { size: 12 },
  });
  return chart({
    title: "Where the bytes are", name: "bytes", height: narrow ? 620 : 400, search: (row) => row.name,
    note: "Each side is all bytes of the model, before and after: blue is palettized, grey is kept, and what is between is a module with both. Click a module to go into it.",
    draw: (colours) => ({
      data: [
        trace(colours, "before", report.size_before_bytes, narrow ? { x: [0, 1], y: [0.51, 1] } : { x: [0, 0.495], y: [0, 1] }, true),
        trace(colours, "after", report.size_after_bytes, narrow ? { x: [0, 1], y: [0, 0.49] } : { x: [0.505, 1], y: [0, 1] }, false),
      ],
      layout: layout(colours, { margin: { l: 0, r: 0, t: 0, b: 0 } }),
    }),
    columns: [
      words("Tensor", "name"),
      amount("Before", "before", bytes),
      amount("After", "after", bytes),
      { label: "Part of after", numeric: true, value: (row) => (row.after / report.size_after_bytes) * 100, cell: (row) => percent(row.after, report.size_after_bytes) },
    ],
    rows: leaves,
    onclick: (point) => point.customdata && onopen?.(point.customdata),
  });
}

const ORDERS = {
  "worst first": (one, other) => low(one) - low(other),
  "best first": (one, other) => low(other) - low(one),
  "largest first": (one, other) => other.size_before_bytes - one.size_before_bytes,
  "as in the model": null,
};
const low = (tensor) => tensor.snr_db ?? Number.POSITIVE_INFINITY;

/** Beyond these, an outline is drawn: a page cannot be used while thousands of shapes are made. */
const MOST_BARS = 300;

/** What every form of the bars has in common. */
function heights(tensors) {
  const top = Math.max(1, ...tensors.map((tensor) => tensor.snr_db ?? 0));
  return {
    x: tensors.map((_, at) => at + 1), y: tensors.map((tensor) => tensor.snr_db ?? top), customdata: tensors.map((tensor) => tensor.name), hoverinfo: "text",
    hovertext: tensors.map((tensor) => `${plain(tensor.name)}<br>${decibels(tensor.snr_db)} · ${fixed(tensor.bits_per_weight)} bits per weight<br>${shape(tensor.shape)}, ${bytes(tensor.size_before_bytes)}<br>${spec(tensor.spec)}`),
  };
}

function bars(tensors, picked, colours) {
  return [{ type: "bar", ...heights(tensors), marker: { color: tensors.map((tensor) => (tensor.name === picked ? colours.warm : colours.accent)), line: { width: 0 } } }];
}

function silhouette(tensors, picked, colours) {
  const made = heights(tensors);
  const at = tensors.findIndex((tensor) => tensor.name === picked);
  const outline = { type: "scatter", mode: "lines", fill: "tozeroy", fillcolor: colours.accent, line: { shape: "hvh", width: 1, color: colours.accent }, ...made };
  const mark = { type: "scatter", mode: "lines", x: [at + 1, at + 1], y: [0, made.y[at]], line: { width: 3, color: colours.warm }, hoverinfo: "skip" };
  return at < 0 ? [outline] : [outline, mark];
}

/** SNR of each palettized tensor, in an order that can be chosen: `{element, pick(name)}`. */
export function snrChart(report, onpick) {
  const all = report.tensors.filter((tensor) => tensor.action === "palettized");
  const state = { how: "worst first", picked: null };
  const sorted = () => (ORDERS[state.how] ? all.slice().sort(ORDERS[state.how]) : all);
  const name = freshId("order");
  const orders = h("fieldset", { class: "segments" }, h("legend", { class: "unseen" }, "Order of the bars"), Object.keys(ORDERS).map((how) => {
    const id = freshId("order");
    return [h("input", { type: "radio", name, id, checked: how === state.how, onchange: () => { state.how = how; made.paint(); } }), h("label", { for: id }, how)];
  }));
  const made = chart({
    title: "Where the error is", controls: orders, name: "snr", search: (row) => row.name,
    note: "Signal-to-noise ratio of every palettized tensor: a higher bar is a truer copy. Click a bar to find its row in the table.",
    draw: (colours) => {
      const tensors = sorted();
      return {
        data: tensors.length > MOST_BARS ? silhouette(tensors, state.picked, colours) : bars(tensors, state.picked, colours),
        layout: layout(colours, { hovermode: "x", bargap: 0.15, xaxis: { title: `tensors, ${state.how}`, showgrid: false, dtick: tensors.length <= 12 ? 1 : null }, yaxis: { title: "SNR in dB", rangemode: "tozero" } }),
      };
    },
    columns: [
      words("Tensor", "name"),
      { label: "SNR dB", numeric: true, value: (row) => row.snr_db, cell: (row) => (row.snr_db === null ? "exact" : fixed(row.snr_db, 2)) },
      amount("Bits per weight", "bits_per_weight", (value) => fixed(value, 3)),
      { label: "Weights", numeric: true, value: (row) => row.shape.reduce((a, b) => a * b, 1) },
    ],
    rows: all,
    onclick: (point) => { pick(point.customdata); onpick(point.customdata); },
  });
  function pick(name) {
    state.picked = name;
    made.paint();
  }
  return { element: made.element, pick };
}
