// A plan as a tree of modules, with spec and rule of each tensor.

import { button, fill, h } from "./dom.js";
import { bytes, count, counted, percent, ratio, shape, spec } from "./format.js";
import { facts, unmatchedList, warningList } from "./results.js";

const OPEN_UP_TO = 12;
const MOST_OPENED = 200;
/** Functions that build the contents of a module when it is opened. */
const builders = new WeakMap();

/**
 * The view of a plan. `menu(tensors, name)` returns what pins the bits of these tensors of that name, or null;
 * `oninclude(rule)` is called to add a rule to the config.
 */
export function planView(plan, { menu = () => null, oninclude } = {}) {
  const leftOut = oninclude ? plan.left_out_embeddings : null;
  const done = plan.tensors.filter((tensor) => tensor.action === "palettize");
  const tree = h("div", { class: "plantree" });
  const wanted = h("input", { type: "search", placeholder: "Filter tensors", "aria-label": "Filter tensors of the plan", autocomplete: "off", oninput: () => draw(tree, plan, wanted.value, menu) });
  draw(tree, plan, "", menu);
  return [
    leftOut && leftOutNotice(plan, leftOut, oninclude),
    unmatchedList(plan.unmatched), warningList(plan.warnings.filter((each) => each !== leftOut?.warning)), exportList(plan.exports ?? []), incompatible(plan),
    facts([
      ["Predicted size", `${bytes(plan.size_before_bytes)} → ${bytes(plan.predicted_size_bytes)}`],
      ["Smaller by", ratio(plan.size_before_bytes, plan.predicted_size_bytes)],
      ["To palettize", `${count(done.length)} of ${counted(plan.tensors.length, "tensor")}`],
      ["Of the bytes", percent(done.reduce((sum, tensor) => sum + tensor.size_bytes, 0), plan.size_before_bytes)],
    ]),
    h("div", { class: "tablebar" }, wanted, button("Open all", () => openAll(tree), { class: "small" })),
    tree,
  ];
}

/** Large embeddings that the config leaves out, and the rule that is written into it to include them. */
function leftOutNotice(plan, { size_bytes: size, predicted_bytes: predicted, tensors, rule }, oninclude) {
  return h("div", { class: "notice warn" },
    h("strong", null, `${counted(tensors.length, "embedding")} left out`),
    h("p", null, `As in coreai-opt, embeddings are palettized only if a rule names them. With this rule they take ${bytes(predicted)}:`),
    h("pre", { class: "rule", tabindex: 0 }, JSON.stringify(rule, null, 2)),
    button(`Include embeddings (${bytes(size)}, ${percent(size, plan.size_before_bytes)})`, () => oninclude(rule), { class: "small" }));
}

function exportList(exports) {
  const lacking = exports.filter((each) => Object.keys(each.inexpressible).length > 0);
  return lacking.map(({ format, inexpressible }) => h("div", { class: "notice warn" },
    h("strong", null, `${format} cannot express ${counted(Object.keys(inexpressible).length, "tensor")}`),
    h("p", null, "Without “Keep unsupported tensors dense” the job is rejected; with it, these tensors stay dense in this format."),
    h("details", null, h("summary", null, "Details"), h("ul", null, Object.entries(inexpressible).map(([name, why]) => h("li", null, h("code", null, name), ` ${why}`))))));
}

/** Tensors to which a matching rule cannot be applied. */
function incompatible(plan) {
  const tensors = plan.tensors.filter((tensor) => tensor.incompatible);
  return tensors.length > 0 && h("div", { class: "notice warn" }, h("strong", null, `${counted(tensors.length, "tensor")} incompatible with a rule`),
    h("details", null, h("summary", null, "Details"), h("ul", null, tensors.map((tensor) => h("li", null, h("code", null, tensor.name), ` ${tensor.reason}`)))));
}

function draw(place, plan, wanted, menu) {
  const sought = wanted.toLowerCase();
  const tensors = sought ? plan.tensors.filter((tensor) => tensor.name.toLowerCase().includes(sought)) : plan.tensors;
  const root = { name: "", label: "(root)", children: new Map(), tensors: [], before: 0, after: 0, total: 0, done: 0, type: null };
  for (const tensor of tensors) insert(root, tensor);
  fill(place, tensors.length ? contents(root, menu) : h("p", { class: "hint" }, "No tensor matches."));
  if (sought && tensors.length <= MOST_OPENED) openAll(place);
}

/** Open all modules, including nested ones that are built on opening. */
function openAll(place) {
  for (let closed = place.querySelectorAll("details:not([open])"); closed.length > 0; closed = place.querySelectorAll("details:not([open])")) {
    for (const details of closed) {
      builders.get(details)?.();
      details.open = true;
    }
  }
}

function insert(root, tensor) {
  let node = root;
  const path = [root];
  for (const word of tensor.module ? tensor.module.split(".") : []) {
    const name = node.name ? `${node.name}.${word}` : word;
    if (!node.children.has(word)) node.children.set(word, { name, label: word, children: new Map(), tensors: [], before: 0, after: 0, total: 0, done: 0, type: null });
    node = node.children.get(word);
    path.push(node);
  }
  node.tensors.push(tensor);
  node.type = tensor.module_type;
  for (const each of path) {
    each.before += tensor.size_bytes;
    each.after += tensor.predicted_bytes;
    each.total += 1;
    each.done += Number(tensor.action === "palettize");
  }
}

function contents(node, menu, depth = 0) {
  return [node.tensors.map((tensor) => leaf(tensor, menu)), [...node.children.values()].map((child) => branch(child, node.children.size, depth, menu))];
}

/** A module; a chain of single modules is one line. */
function branch(top, siblings, depth, menu) {
  let node = top;
  let label = node.label;
  while (node.children.size === 1 && node.tensors.length === 0) {
    node = node.children.values().next().value;
    label += `.${node.label}`;
  }
  const details = h("details", null, h("summary", null,
    h("span", { class: "module" }, label, node.type && h("span", { class: "hint" }, ` ${node.type.split(".").pop()}`)),
    h("span", { class: "hint number" }, `${count(node.done)}/${count(node.total)} · ${bytes(node.before)} → ${bytes(node.after)}`)));
  const open = () => details.children.length === 1 && details.append(h("div", { class: "inner" }, node.total > 1 && modulePin(node, menu), contents(node, menu, depth + 1)));
  builders.set(details, open);
  details.addEventListener("toggle", open);
  if (depth === 0 ? siblings <= OPEN_UP_TO : siblings === 1 && node.total <= OPEN_UP_TO) {
    open();
    details.open = true;
  }
  return details;
}

/** The menu of all tensors of a module, if they may be pinned. */
function modulePin(node, menu) {
  const pin = menu(within(node), node.name);
  return pin && h("div", { class: "hint" }, "All tensors of this module:", pin);
}

function within(node) {
  return [...node.tensors, ...[...node.children.values()].flatMap(within)];
}

function leaf(tensor, menu) {
  const isDone = tensor.action === "palettize";
  const local = tensor.module && tensor.name.startsWith(`${tensor.module}.`) ? tensor.name.slice(tensor.module.length + 1) : tensor.name;
  return h("div", { class: `leaf ${isDone ? "palettized" : "kept"}` },
    h("div", null, h("span", { class: "name", title: tensor.name }, local), h("span", { class: "hint" }, ` ${shape(tensor.shape)} ${tensor.dtype}${tensor.aliases.length ? `, also ${tensor.aliases.join(", ")}` : ""}`)),
    h("div", null, isDone ? [spec(tensor.spec), h("span", { class: "hint" }, `, ${tensor.groups === 1 ? "1 palette" : `${count(tensor.groups)} palettes`}${tensor.weighted ? ", weighted" : ""}`)] : h("span", { class: "hint" }, `kept: ${tensor.reason}`), menu([tensor], tensor.name)),
    h("code", { class: "rule" }, tensor.rule ?? "no rule"),
    h("span", { class: "number" }, isDone ? `${bytes(tensor.size_bytes)} → ${bytes(tensor.predicted_bytes)}` : bytes(tensor.size_bytes)));
}
