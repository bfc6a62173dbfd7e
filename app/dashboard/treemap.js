// A treemap of a report's bytes by module.

import { blend, chart, layout, plain } from "./charts.js";
import { button, fill, h } from "./dom.js";
import { bytes, count, fixed, percent } from "./format.js";
import { amount, words } from "./table.js";

/** Most boxes per module, and in total: each takes 10 ms to draw. */
const [MOST_CHILDREN, MOST_SEEN] = [32, 80];
const MOST_LEVELS = 4;

/** Share of the area from which on a box has space for its name. */
const LEAST_NAMED = 0.008;

const SIZES = ["before", "after", "chosen"];

function box(label, name, parent, tensor = null) {
  return { label, name, parent, tensor, children: new Map(), before: 0, after: 0, chosen: 0 };
}

/** A tree of modules and tensors with their bytes. */
function tree(report) {
  const root = box("model", "", null);
  for (const tensor of report.tensors) {
    const words = tensor.name.split(".");
    const sizes = [tensor.size_before_bytes, tensor.size_after_bytes, tensor.action === "palettized" ? tensor.size_before_bytes : 0];
    let node = root;
    for (let depth = 0; depth <= words.length; depth += 1) {
      if (depth > 0) node = child(node, words, depth, depth === words.length ? tensor : null);
      SIZES.forEach((size, at) => { node[size] += sizes[at]; });
    }
  }
  return root;
}

function child(node, words, depth, tensor) {
  const key = `${tensor ? "tensor" : "module"} ${words[depth - 1]}`;
  if (!node.children.has(key)) node.children.set(key, box(words[depth - 1] || "·", words.slice(0, depth).join("."), node, tensor));
  return node.children.get(key);
}

/** The children of a box, largest first; if too many, the smallest share a box. */
function inside(node) {
  if (node.sorted) return node.sorted;
  const own = [...node.children.values()].sort((one, other) => other.before - one.before);
  const rest = own.length > MOST_CHILDREN ? own.splice(MOST_CHILDREN - 1) : [];
  if (rest.length) {
    const more = box(`${count(rest.length)} more`, `${count(rest.length)} smaller ones${node.name && ` in ${node.name}`}`, node);
    rest.forEach((each, at) => {
      each.parent = more;
      more.children.set(at, each);
      for (const size of SIZES) more[size] += each[size];
    });
    own.push(more);
  }
  node.sorted = own;
  return own;
}

/** A box and its descendants, down to as many levels as can be drawn. */
function visibleBoxes(node) {
  let [boxes, level] = [[node], [node]];
  for (let depth = 1; depth < MOST_LEVELS; depth += 1) {
    level = level.flatMap(inside);
    if (!level.length || (depth > 1 && boxes.length + level.length > MOST_SEEN)) break;
    boxes = boxes.concat(level);
  }
  return boxes;
}

function hoverText(node, size, whole) {
  const how = node.tensor && (node.tensor.action === "kept" ? "kept" : `${fixed(node.tensor.bits_per_weight)} bits per weight`);
  return [plain(node.name || "model"), `${bytes(node.before)} → ${bytes(node.after)}`, `${percent(node[size], whole)} of all`, how].filter(Boolean).join("<br>");
}

function trace(nodes, side, size, whole, domain, colours) {
  const ids = new Map(nodes.map((node, at) => [node, String(at)]));
  const [top] = nodes;
  const part = (node) => (node.before ? node.chosen / node.before : 0);
  const name = (node) => (node === top ? `${side}${top.parent ? `: ${top.name}` : ""}` : node.label);
  return {
    type: "treemap", branchvalues: "total", domain, sort: true, hoverinfo: "text",
    ids: [...ids.values()], labels: nodes.map((node) => plain(name(node))), parents: nodes.map((node) => (node === top ? "" : ids.get(node.parent))), values: nodes.map((node) => node[size]),
    text: nodes.map((node) => bytes(node[size])), texttemplate: nodes.map((node) => (node[size] > top[size] * LEAST_NAMED ? "%{label}<br>%{text}" : "")), hovertext: nodes.map((node) => hoverText(node, size, whole)),
    pathbar: { visible: false }, tiling: { pad: 1 }, textfont: { size: 12, color: nodes.map((node) => (part(node) > 0.5 ? colours["on-accent"] : colours.ink)) },
    marker: { colors: nodes.map((node) => blend(colours.kept, colours.accent, part(node))), line: { width: 1, color: colours.surface }, pad: { t: 20, l: 2, r: 2, b: 2 } },
  };
}

/** Size by module, before and after; `onopen` gets the clicked tensor. */
export function treemapChart(report, onopen) {
  const narrow = matchMedia("(max-width: 700px)").matches;
  const [left, right] = narrow ? [{ x: [0, 1], y: [0.51, 1] }, { x: [0, 1], y: [0, 0.49] }] : [{ x: [0, 0.495], y: [0, 1] }, { x: [0.505, 1], y: [0, 1] }];
  const { size_before_bytes: before, size_after_bytes: after } = report;
  const way = h("nav", { class: "way", "aria-label": "Parent modules" });
  let drawn;

  function show(node) {
    drawn = visibleBoxes(node);
    const above = [];
    for (let at = node.parent; at; at = at.parent) above.unshift(at);
    fill(way, above.map((each) => [button(each.label, () => enter(each), { class: "link" }), " / "]), h("span", { "aria-current": "location" }, node.label));
  }

  function enter(node) {
    show(node);
    figure.paint();
  }

  function click({ pointNumber }) {
    const node = drawn[pointNumber];
    if (node.tensor) onopen?.(node.tensor.name);
    else if (node !== drawn[0]) enter(node);
    else if (node.parent) enter(node.parent);
  }

  show(tree(report));
  const figure = chart({
    title: "Size by module", name: "bytes", height: narrow ? 620 : 400, search: (row) => row.name, controls: way,
    note: "The model before and after, by bytes: blue is palettized, grey is unchanged, shades between are modules with both. Click a module to zoom in.",
    draw: (colours) => ({
      data: [trace(drawn, "Before", "before", before, left, colours), trace(drawn, "After", "after", after, right, colours)],
      layout: layout(colours, { margin: { l: 0, r: 0, t: 0, b: 0 } }),
    }),
    columns: [
      words("Tensor", "name"),
      amount("Before", "size_before_bytes", bytes),
      amount("After", "size_after_bytes", bytes),
      { label: "Share of after", numeric: true, value: (row) => (row.size_after_bytes / after) * 100, cell: (row) => percent(row.size_after_bytes, after) },
    ],
    rows: report.tensors,
    onclick: click,
  });
  return figure;
}
