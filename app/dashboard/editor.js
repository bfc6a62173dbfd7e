// A config editor; the server validates while typing, and errors are shown at their lines.

import { fetchJson } from "./api.js";
import { button, fill, freshId, h } from "./dom.js";
import { counted } from "./format.js";
import { problem } from "./notice.js";

const WAIT_MS = 250;
const START = {
  yaml: `global_config:
  op_state_spec:
    weight:
      n_bits: 4
      granularity: {type: per_grouped_channel, group_size: 16}
`,
  json: `{
  "global_config": {
    "op_state_spec": {
      "weight": {
        "n_bits": 4,
        "granularity": {"type": "per_grouped_channel", "group_size": 16}
      }
    }
  }
}
`,
};

/** An editor: `{element, config()}`; `onchange` is called when its validity may have changed. */
export function editor({ signal, onchange }) {
  const state = { language: "yaml", result: null, isStale: true, pending: null, timer: null, id: freshId("config") };
  const parts = skeleton(state.id);
  const view = { ...parts, state, onchange, signal };
  parts.text.value = START.yaml;
  parts.text.addEventListener("input", () => typed(view));
  parts.text.addEventListener("scroll", () => { parts.gutter.scrollTop = parts.text.scrollTop; });
  for (const language of ["yaml", "json"]) {
    const id = freshId("language");
    parts.languages.append(
      h("input", { type: "radio", name: `${state.id}-language`, id, checked: language === "yaml", onchange: () => translate(view, language) }),
      h("label", { for: id }, language.toUpperCase()),
    );
  }
  typed(view);
  /** Replace the text with JSON. */
  const load = (text) => {
    state.language = "json";
    parts.languages.querySelector("input:last-of-type").checked = true;
    parts.text.value = text;
    state.result = null;
    typed(view);
  };
  return { element: parts.element, load, config: () => (state.result?.is_valid && !state.isStale ? state.result.config : null), text: () => parts.text.value, type: () => `application/${state.language}` };
}

function skeleton(id) {
  const text = h("textarea", { id, class: "code", rows: 14, spellcheck: "false", autocapitalize: "off", autocomplete: "off", wrap: "off", "aria-describedby": `${id}-faults`, "aria-label": "Config" });
  const gutter = h("div", { class: "gutter", "aria-hidden": "true" });
  const faults = h("div", { id: `${id}-faults`, class: "faultlist", role: "status" });
  const languages = h("fieldset", { class: "segments" }, h("legend", { class: "unseen" }, "Language of the config"));
  return { text, gutter, faults, languages, element: h("div", null, languages, h("div", { class: "editor" }, gutter, text), faults) };
}

/** Number the lines, and validate once typing pauses; until then there is no config. */
function typed(view) {
  view.state.isStale = true;
  number(view);
  view.onchange();
  clearTimeout(view.state.timer);
  view.state.timer = setTimeout(() => validate(view), WAIT_MS);
}

function number({ text, gutter, state }) {
  const faulty = new Map((state.result?.errors ?? []).map((error) => [error.line, error.detail]));
  const lines = text.value.split("\n").length;
  fill(gutter, Array.from({ length: lines }, (_, at) => h("span", { class: faulty.has(at + 1) && "bad", title: faulty.get(at + 1) }, String(at + 1))));
  gutter.scrollTop = text.scrollTop;
}

async function validate(view) {
  const { state } = view;
  state.pending?.abort();
  state.pending = new AbortController();
  const { signal } = state.pending;
  view.signal.addEventListener("abort", () => state.pending.abort(), { once: true });
  try {
    state.result = await fetchJson("/v1/configs/validate", { method: "POST", body: view.text.value, headers: { "Content-Type": `application/${state.language}` }, signal });
    state.isStale = false;
    drawFaults(view);
  } catch (error) {
    if (signal.aborted) return;
    state.result = null;
    fill(view.faults, problem(error, button("Try again", () => validate(view))));
  }
  number(view);
  view.text.setAttribute("aria-invalid", String(!state.result?.is_valid));
  view.onchange();
}

function drawFaults(view) {
  const { errors, is_valid } = view.state.result;
  if (is_valid) return void fill(view.faults, h("p", { class: "fine" }, "The config is valid."));
  fill(view.faults, h("p", { class: "why" }, counted(errors.length, "error")), h("ol", { class: "faults" }, errors.map((error) =>
    h("li", null, error.line ? button(`line ${error.line}`, () => goTo(view.text, error.line), { class: "link" }) : null, " ", h("code", null, error.pointer || "/"), ` ${error.detail}`))));
}

/** Move the cursor to a line. */
function goTo(text, line) {
  const lines = text.value.split("\n");
  const start = lines.slice(0, line - 1).reduce((sum, each) => sum + each.length + 1, 0);
  text.focus();
  text.setSelectionRange(start, start + (lines[line - 1]?.length ?? 0));
  text.scrollTop = (line - 4) * parseFloat(getComputedStyle(text).lineHeight);
}

/** Switch the language: translate a valid config, else keep the text. */
function translate(view, language) {
  const { state, text } = view;
  const isUntouched = text.value === START[state.language];
  const other = isUntouched ? START[language] : state.result?.is_valid ? state.result[language] : text.value;
  state.language = language;
  text.value = other;
  typed(view);
}
