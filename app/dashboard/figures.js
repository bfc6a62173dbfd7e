// The chart of errors by tensor.

import { chart, layout, plain } from "./charts.js";
import { freshId, h } from "./dom.js";
import { bytes, decibels, fixed, shape, spec } from "./format.js";
import { amount, words } from "./table.js";

const ORDERS = {
  "worst first": (one, other) => low(one) - low(other),
  "best first": (one, other) => low(other) - low(one),
  "largest first": (one, other) => other.size_before_bytes - one.size_before_bytes,
  "model order": null,
};
const low = (tensor) => tensor.snr_db ?? Number.POSITIVE_INFINITY;

/** Beyond this, an outline is drawn: thousands of shapes would block the page. */
const MOST_BARS = 300;

/** Data shared by bars and outline. */
function heights(tensors) {
  const top = Math.max(1, ...tensors.map((tensor) => tensor.snr_db ?? 0));
  return {
    x: tensors.map((_, at) => at + 1), y: tensors.map((tensor) => tensor.snr_db ?? top), customdata: tensors.map((tensor) => tensor.name), hoverinfo: "text",
    hovertext: tensors.map((tensor) => `${plain(tensor.name)}<br>${decibels(tensor.snr_db)} · ${fixed(tensor.bits_per_weight)} bits per weight<br>${shape(tensor.shape)}, ${bytes(tensor.size_before_bytes)}<br>${spec(tensor.spec)}`),
  };
}

function bars(tensors, selected, colours) {
  return [{ type: "bar", ...heights(tensors), marker: { color: tensors.map((tensor) => (tensor.name === selected ? colours.warm : colours.accent)), line: { width: 0 } } }];
}

function silhouette(tensors, selected, colours) {
  const data = heights(tensors);
  const at = tensors.findIndex((tensor) => tensor.name === selected);
  const outline = { type: "scatter", mode: "lines", fill: "tozeroy", fillcolor: colours.accent, line: { shape: "hvh", width: 1, color: colours.accent }, ...data };
  const mark = { type: "scatter", mode: "lines", x: [at + 1, at + 1], y: [0, data.y[at]], line: { width: 3, color: colours.warm }, hoverinfo: "skip" };
  return at < 0 ? [outline] : [outline, mark];
}

/** SNR of each palettized tensor, in selectable order: `{element, pick(name)}`. */
export function snrChart(report, onpick) {
  const all = report.tensors.filter((tensor) => tensor.action === "palettized");
  const state = { how: "worst first", selected: null };
  const sorted = () => (ORDERS[state.how] ? all.slice().sort(ORDERS[state.how]) : all);
  const name = freshId("order");
  const orders = h("fieldset", { class: "segments" }, h("legend", { class: "unseen" }, "Order of the bars"), Object.keys(ORDERS).map((how) => {
    const id = freshId("order");
    return [h("input", { type: "radio", name, id, checked: how === state.how, onchange: () => { state.how = how; figure.paint(); } }), h("label", { for: id }, how)];
  }));
  const figure = chart({
    title: "Error by tensor", controls: orders, name: "snr", search: (row) => row.name,
    note: "Signal-to-noise ratio of every palettized tensor; higher is more accurate. Click a bar to find its row in the table.",
    draw: (colours) => {
      const tensors = sorted();
      return {
        data: tensors.length > MOST_BARS ? silhouette(tensors, state.selected, colours) : bars(tensors, state.selected, colours),
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
    state.selected = name;
    figure.paint();
  }
  return { element: figure.element, pick };
}
