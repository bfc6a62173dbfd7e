// Numbers and charts of one palettized tensor.

import { chart, layout } from "./charts.js";
import { h } from "./dom.js";
import { bytes, count, counted, decibels, duration, fixed, percent, ratio, shape, short, spec } from "./format.js";
import { facts } from "./results.js";
import { amount } from "./table.js";

/** The figures of a tensor in the report. */
export function numbers(tensor) {
  const { clustering } = tensor;
  return [
    facts([
      ["Shape", `${shape(tensor.shape)} ${tensor.dtype}`],
      ["SNR of weights", decibels(tensor.snr_db)],
      ["Largest error", short(tensor.max_error)],
      ["Bits per weight", fixed(tensor.bits_per_weight, 3)],
      ["Bytes", `${bytes(tensor.size_before_bytes)} → ${bytes(tensor.size_after_bytes)}`],
      ["Smaller by", ratio(tensor.size_before_bytes, tensor.size_after_bytes)],
      ["Palettes", count(tensor.groups)],
      ["Kernel time", duration(tensor.seconds)],
      tensor.zero_share !== undefined && ["Zeros in a mask", `${percent(tensor.zero_share, 1)}, ${bytes(tensor.mask_bytes)}`],
      tensor.reused && ["Result", "reused from an earlier job"],
      (tensor.method ?? (tensor.weighted && "sensitivities")) === "sensitivities" && ["Minimised", "error of weights, by sensitivities"],
      tensor.method === "feedback" && ["Minimised", "error of the layer's outputs"],
      tensor.output_error !== undefined && ["Expected error of outputs", `${percent(tensor.output_error, 2)} of their energy, ${percent(tensor.output_error_without_feedback, 2)} without feedback`],
    ]),
    h("dl", { class: "lines" },
      h("dt", null, "Spec"), h("dd", null, spec(tensor.spec)),
      clustering && [h("dt", null, "Clustered"), h("dd", null, describeClustering(clustering))],
      h("dt", null, "Rule"), h("dd", null, h("code", null, tensor.rule ?? "none")),
      h("dt", null, "Module"), h("dd", null, `${tensor.module || "(root)"}${tensor.module_type ? `, ${tensor.module_type}` : ""}`),
      tensor.aliases.length > 0 && [h("dt", null, "Aliases"), h("dd", null, tensor.aliases.join(", "))]),
    tensor.notes.length > 0 && h("div", { class: "notice warn" }, h("ul", null, tensor.notes.map((note) => h("li", null, note)))),
  ];
}

function describeClustering({ axis, group_size, rounding_precision }) {
  const groups = group_size === null ? "all weights" : `${counted(group_size, "channel")} of axis ${axis}`;
  return `${groups}, ${rounding_precision === null ? "values not rounded" : `values rounded to ${counted(rounding_precision, "decimal")}`}`;
}

/** The charts of a tensor's statistics. */
export function charts(statistics) {
  return [histogram(statistics), occupancy(statistics), groupErrors(statistics)];
}

function histogram({ sampled, cell_exponent, first_cell, weights, reconstructed, palette }) {
  const width = 2 ** cell_exponent;
  const centres = weights.map((_, at) => (first_cell + at + 0.5) * width);
  const rows = weights.map((number, at) => ({ from: (first_cell + at) * width, to: (first_cell + at + 1) * width, number, after: reconstructed[at] }));
  const paletteNote = palette ? `; lines mark the ${count(palette.length)} palette entries` : "; the palette is not drawn, as it has too many entries or rows have their own scales";
  return chart({
    title: "Weights before and after", name: "histogram", height: 360,
    note: `Above: the original weights${paletteNote}. Below: the reconstructed weights. A sample of ${count(sampled)} weights, evenly spread over the tensor.`,
    draw: (colours) => {
      const hover = rows.map((row) => `${short(row.from)} to ${short(row.to)}<br>before ${count(row.number)}, after ${count(row.after)}`);
      const bars = (y, colour, more) => ({ type: "bar", x: centres, y, width, hovertext: hover, hoverinfo: "text", marker: { color: colour, line: { width: 0 } }, ...more });
      const top = Math.max(1, ...weights);
      const entries = palette ?? [];
      return {
        data: [
          bars(weights, colours.sky, { yaxis: "y" }),
          bars(reconstructed, colours.warm, { yaxis: "y2" }),
          { type: "scatter", mode: "lines", yaxis: "y", hoverinfo: "skip", line: { color: colours.ink, width: entries.length > 64 ? 0.5 : 1 }, opacity: entries.length > 64 ? 0.5 : 0.9, x: entries.flatMap((value) => [value, value, null]), y: entries.flatMap(() => [0, top * 1.06, null]) },
        ],
        layout: layout(colours, {
          bargap: 0, xaxis: { title: "weight", anchor: "y2", showgrid: false },
          yaxis: { title: "before", domain: [0.42, 1], rangemode: "tozero" }, yaxis2: { title: "after", domain: [0, 0.36], rangemode: "tozero" },
        }),
      };
    },
    columns: [
      amount("From", "from", short),
      amount("To", "to", short),
      amount("Weights", "number", count),
      amount("Reconstructed", "after", count),
    ],
    rows,
  });
}

function occupancy({ occupancy: counts, unused, palette }) {
  const all = counts.reduce((sum, number) => sum + number, 0);
  const rows = counts.map((number, index) => ({ index, number }));
  const isOne = palette?.length === counts.length;
  return chart({
    title: "Usage of palette entries", name: "occupancy", height: 240,
    note: `Number of indices per palette entry, ${isOne ? "in order of value" : "over all palettes"}; ${unused ? `${count(unused)} unused` : "all are used"}.`,
    draw: (colours) => ({
      data: [{ type: "bar", x: counts.map((_, at) => at), y: counts, hoverinfo: "text", marker: { color: colours.accent, line: { width: 0 } },
        hovertext: rows.map((row) => `entry ${row.index}${isOne ? ` = ${short(palette[row.index])}` : ""}<br>${count(row.number)} indices, ${((row.number / (all || 1)) * 100).toFixed(2)} %`) }],
      layout: layout(colours, { xaxis: { title: "entry", showgrid: false }, yaxis: { title: "indices", rangemode: "tozero" } }),
    }),
    columns: [
      amount("Entry", "index"),
      isOne && { label: "Value", numeric: true, value: (row) => palette[row.index], cell: (row) => short(palette[row.index]) },
      amount("Indices", "number", count),
    ].filter(Boolean),
    rows,
  });
}

function groupErrors({ group_mse: errors, groups_each: each }) {
  const title = "Error by palette";
  if (errors.length === 1) return { element: h("div", null, h("h3", null, title), h("p", { class: "hint" }, `The tensor has one palette; its mean squared error is ${short(errors[0])}.`)) };
  const rows = errors.map((mse, at) => ({ first: at * each, mse }));
  const name = (row) => (each === 1 ? `palette ${row.first}` : `palettes ${row.first} to ${row.first + each - 1}`);
  return chart({
    title, name: "group-errors", height: 170,
    note: `Mean squared error of ${each === 1 ? "each palette's weights" : `each run of ${count(each)} palettes' weights`}, in the order of the channels.`,
    draw: (colours) => ({
      data: [{ type: "bar", x: rows.map((row) => row.first), y: errors, width: each, hoverinfo: "text", marker: { color: colours.warm, line: { width: errors.length > 64 ? 0 : 1, color: colours.surface } },
        hovertext: rows.map((row) => `${name(row)}<br>mean squared error ${short(row.mse)}`) }],
      layout: layout(colours, { bargap: 0, xaxis: { title: "palette", showgrid: false }, yaxis: { rangemode: "tozero", nticks: 4, exponentformat: "power" } }),
    }),
    columns: [
      { label: "Palettes", value: name, sort: (row) => row.first },
      amount("Mean squared error", "mse", short),
    ],
    rows,
  });
}
