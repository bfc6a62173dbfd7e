// A target size: its curve, a slider on it, pinned tensors, and the config that was chosen.

import { chart, layout, plain } from "./charts.js";
import { button, fill, h } from "./dom.js";
import { bytes } from "./format.js";
import { amount } from "./table.js";

/** A target that every model reaches: the first request asks for the curve only. */
const ANY_SIZE = { error: 1e300 };
const FIRST_SHARE = 0.25;
const WIDTHS = [1, 2, 3, 4, 6, 8];
const number = (value) => Number(value).toPrecision(3);

/** The pane of a target; `onchange` is called when another plan is needed. */
export function targetPane(onchange) {
  const state = { target: ANY_SIZE, curve: [], at: 0, uniform: [], presets: {}, pins: new Map(), weighted: false };
  const chosenSize = h("output", { class: "size" });
  const slider = h("input", { type: "range", min: 0, max: 0, step: 1, value: 0, "aria-label": "Size of the artifact", disabled: true });
  const figure = chart({
    title: "Size vs. expected error", height: 260, draw: (colours) => drawn(state, colours),
    note: "Lower is better. Squares give all tensors the same bits; dashed lines are the sizes of presets.",
    columns: [amount("Size", "size_bytes", bytes), amount("Expected error", "error", number)],
    rows: state.curve, name: "curve",
  });
  const caption = h("p", { class: "hint" });
  const config = h("div");
  const say = () => {
    const point = state.curve[state.at];
    const text = `${bytes(point.size_bytes)}, expected error ${number(point.error)}`;
    fill(chosenSize, text);
    slider.setAttribute("aria-valuetext", text);
  };
  slider.addEventListener("input", () => {
    state.at = Number(slider.value);
    state.target = { size_bytes: state.curve[state.at].size_bytes };
    say();
    figure.paint();
    onchange();
  });
  const pin = (tensors, bits) => {
    for (const tensor of tensors) {
      if (bits === "") state.pins.delete(tensor.name);
      else state.pins.set(tensor.name, { tensor, bits });
    }
    onchange();
  };
  return {
    element: h("div", { class: "stack" }, figure.element, h("div", { class: "field" }, slider, chosenSize), caption, config),
    /** Another model: its curve is not known yet. */
    reset() {
      Object.assign(state, { target: ANY_SIZE, curve: [], at: 0, uniform: [], pins: new Map() });
      slider.disabled = true;
      fill(chosenSize, "The curve appears once the tensors of the model are scored.");
      fill(config);
    },
    /** Draw the sizes of presets, by their names. */
    presets(sizes) {
      state.presets = sizes;
      figure.paint();
    },
    request: () => ({ target: state.target, ...(state.pins.size > 0 && { config: pinned(state.pins) }) }),
    /** A button that removes all pins; false if there are none. */
    unpin: () => state.pins.size > 0 && button("Unpin all tensors", () => { state.pins.clear(); onchange(); }),
    /** Show what was chosen; returns whether that was only to get the curve. */
    show(allocation) {
      const isFirst = state.target === ANY_SIZE;
      state.curve.splice(0, state.curve.length, ...allocation.curve);
      state.uniform = allocation.uniform;
      slider.max = state.curve.length - 1;
      slider.disabled = false;
      const wanted = isFirst ? FIRST_SHARE * state.curve.at(-1).size_bytes : state.target.size_bytes;
      const over = state.curve.findIndex((point) => point.size_bytes > wanted);
      state.at = over < 0 ? state.curve.length - 1 : Math.max(0, over - 1);
      slider.value = state.at;
      if (isFirst) state.target = { size_bytes: state.curve[state.at].size_bytes };
      say();
      figure.paint();
      fill(caption, allocation.weighted ? "Expected error by the sensitivities." : "Quality is a guess: errors are relative to each tensor, whatever the outputs make of them. Sensitivities of a calibration tell more.");
      if (!isFirst) fill(config, copied(allocation.config));
      return isFirst;
    },
    /** A menu that pins the bits of tensors; none if no target may change any of them. */
    menu(allocation) {
      const free = new Set(allocation.tensors.map((tensor) => tensor.name));
      return (tensors, name) => {
        const able = tensors.filter((tensor) => free.has(tensor.name) || state.pins.has(tensor.name));
        if (able.length === 0) return null;
        const pinned = new Set(able.map((tensor) => state.pins.get(tensor.name)?.bits ?? ""));
        const now = pinned.size === 1 ? [...pinned][0] : "mixed";
        const options = [["", "chosen"], ...(now === "mixed" ? [["mixed", "mixed"]] : []), ["keep", "keep"], ...WIDTHS.map((width) => [String(width), `${width} bit`])];
        return h("select", { class: "pin", "aria-label": `Bits of ${name}`, onchange: (event) => event.target.value !== "mixed" && pin(able, event.target.value) },
          options.map(([value, label]) => h("option", { value, selected: value === now }, label)));
      };
    },
  };
}

/** The config of pinned tensors: rules that name them, which a target leaves as they are. */
function pinned(pins) {
  const rules = {};
  for (const { tensor, bits } of pins.values()) {
    const module = tensor.module.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
    const local = tensor.name.slice(tensor.module ? tensor.module.length + 1 : 0);
    const granularity = tensor.spec?.granularity ?? { type: "per_tensor" };
    rules[module] ??= { module_state_spec: {} };
    rules[module].module_state_spec[local] = bits === "keep" ? null : { n_bits: Number(bits), granularity };
  }
  return { module_name_configs: rules };
}

function copied(document) {
  const text = JSON.stringify({ kmeans_palettization_config: document }, null, 2);
  const status = h("span", { class: "hint", role: "status" });
  const copy = () => navigator.clipboard.writeText(text).then(() => fill(status, "Copied."), () => fill(status, "The browser refused; select the text instead."));
  return h("details", null, h("summary", null, "Chosen config"), h("div", { class: "row" }, button("Copy", copy, { class: "small" }), status), h("pre", { class: "chosen", tabindex: 0 }, text));
}

function drawn(state, colours) {
  const inMb = (points) => points.map((point) => point.size_bytes / 1e6);
  const shown = state.curve.filter((point) => point.error > 0);
  const chosen = state.curve[state.at] ? [state.curve[state.at]] : [];
  const uniform = state.uniform.filter((point) => point.error > 0);
  const hover = "%{text}%{x:.2f} MB, error %{y:.3g}<extra></extra>";
  const texts = uniform.map((point) => `${point.n_bits} bit${point.group_size ? `, groups of ${point.group_size}` : ""}: `);
  const lines = Object.entries(state.presets).map(([name, size]) => ({ name, x: size / 1e6 }));
  return {
    data: [
      { x: inMb(shown), y: shown.map((point) => point.error), mode: "lines", line: { color: colours.accent }, hovertemplate: hover },
      { x: inMb(uniform), y: uniform.map((point) => point.error), text: texts, mode: "markers", marker: { color: colours.warm, symbol: "square", size: 7 }, hovertemplate: hover },
      { x: inMb(chosen), y: chosen.map((point) => point.error), mode: "markers", marker: { color: colours.green, symbol: "diamond", size: 13 }, hovertemplate: hover },
    ],
    layout: layout(colours, {
      xaxis: { title: "Size in MB" }, yaxis: { title: "Expected error", type: "log", exponentformat: "e" },
      shapes: lines.map(({ x }) => ({ type: "line", x0: x, x1: x, y0: 0, y1: 1, yref: "paper", line: { color: colours.muted, dash: "dash", width: 1 } })),
      annotations: lines.map(({ name, x }, at) => ({ x, y: 1 - 0.09 * at, yref: "paper", text: plain(name), showarrow: false, xanchor: "left", yanchor: "top", font: { color: colours.muted } })),
    }),
  };
}
