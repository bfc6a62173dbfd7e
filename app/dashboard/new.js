// A new job: model, config, options, and plan.

import { fetchAll, fetchJson, pause, request as send } from "./api.js";
import { dropZone } from "./drop.js";
import { editor } from "./editor.js";
import { button, checkbox, field, fill, freshId, h } from "./dom.js";
import { brief, bytes, counted } from "./format.js";
import { loading, notice, problem } from "./notice.js";
import { planView } from "./plantree.js";
import { section } from "./results.js";
import { targetPane } from "./target.js";

const WAIT_MS = 150;
const SCORES_EVERY_MS = 500;
const MOST_LISTED = 300;
const FORMATS = { dense: "dense safetensors", transformers: "transformers folder (needs config.json)", gguf: "GGUF, dense", torchao: "torchao state dict", coreai: "Core AI (needs a .pt2)", coreml: "Core ML (needs a .pt2)", onnx: "ONNX (needs a .pt2)" };

export const title = () => "New job";

export async function show(root, { query }, signal) {
  const [models, configs, documents] = await Promise.all([fetchAll("/v1/models", MOST_LISTED, signal), fetchAll("/v1/configs", MOST_LISTED, signal), fetchJson("/v1/presets", { signal })]);
  const view = { signal, model: null, isSending: false, choice: "preset", preset: Object.keys(documents)[0], documents, name: configs[0]?.name ?? null, plan: h("div", { class: "stack" }), status: h("div"), timer: null, pending: null, sent: null };
  view.submit = button("Submit the job", () => submit(view), { class: "primary", disabled: true });
  view.editor = editor({ signal, onchange: () => view.choice === "own" && replan(view) });
  view.target = targetPane(() => view.choice === "target" && replan(view));
  view.options = optionFields(view, models);
  const chooser = modelCard(view, models);
  const config = configCard(view, configs);
  view.showConfig = config.show;
  fill(root,
    h("div", { class: "pagehead" }, h("h1", { tabindex: -1 }, "New job")),
    h("div", { class: "split" },
      h("div", { class: "stack" }, chooser.element, config.element, section("Options", view.options.element)),
      h("div", { class: "stack" }, h("section", { class: "card plan", "aria-label": "Plan" }, h("div", { class: "pagehead" }, h("h2", null, "Plan"), view.submit), view.status, view.plan))));
  const job = query.get("job") && (await again(view, query.get("job"), config));
  const id = job ? job.model_id : query.get("model");
  const wanted = models.find((model) => model.id === id) ?? (id && (await fetchJson(`/v1/models/${encodeURIComponent(id)}`, { signal }).catch(() => null)));
  if (wanted) return chooser.use(wanted);
  if (job) chooser.say(notice("quiet", h("p", null, `The model of that job, ${job.model_name}, is no longer stored: drop its files again, or choose another model.`)));
  return replan(view);
}

/** Start with the config and options of an existing job. */
async function again(view, id, config) {
  const path = `/v1/jobs/${encodeURIComponent(id)}`;
  const [job, document] = await Promise.all([fetchJson(path, { signal: view.signal }), fetchJson(`${path}/config`, { signal: view.signal })]);
  view.options.set(job);
  view.editor.load(JSON.stringify(document, null, 2));
  config.show("own");
  return job;
}

function modelCard(view, models) {
  const select = h("select", null, h("option", { value: "" }, models.length ? "Choose…" : "No models yet"), models.map((model) => option(model)));
  const chosen = h("div", { role: "status" });
  const leave = () => {
    view.model = null;
    view.target.reset();
    select.value = "";
    fill(chosen);
    replan(view);
  };
  const use = (model) => {
    if (![...select.options].some((each) => each.value === model.id)) select.append(option(model));
    select.value = model.id;
    view.model = model;
    view.target.reset();
    fill(chosen, h("p", { class: "fine" }, `${model.name}: ${counted(model.tensors_total, "tensor")}, ${bytes(model.size_bytes)}, ${model.format}`), (model.warnings ?? []).length > 0 && notice("warn", h("ul", null, model.warnings.map((each) => h("li", null, each)))));
    replan(view);
  };
  select.addEventListener("change", () => {
    const model = models.find((each) => each.id === select.value);
    if (model) use(model);
    else leave();
  });
  // While files are uploaded, no other model can be chosen: the last dropped one is submitted.
  const sending = (isSending) => { view.isSending = select.disabled = isSending; };
  const drop = dropZone({
    signal: view.signal,
    onstart: () => { sending(true); leave(); },
    onend: (model) => {
      sending(false);
      if (!model) return replan(view);
      models.push(model);
      return use(model);
    },
  });
  return { use, say: (...words) => fill(chosen, ...words), element: section("Model", drop, field("Or choose a stored model", select), chosen) };
}

function option(model) {
  return h("option", { value: model.id }, `${model.label ? `${model.label}: ` : ""}${model.name} (${bytes(model.size_bytes)}, ${brief(model.id)})`);
}

function configCard(view, configs) {
  const panes = {
    preset: radios("Preset", Object.keys(view.documents).map((name) => [name, name]), view.preset, (name) => { view.preset = name; replan(view); }),
    name: configs.length ? field("Stored config", h("select", { onchange: (event) => { view.name = event.target.value; replan(view); } }, configs.map((config) => h("option", { value: config.name }, config.reference))))
      : h("p", { class: "hint" }, "No config is stored yet: write one and save it under a name."),
    own: h("div", { class: "stack" }, view.editor.element, storing(view)),
    target: view.target.element,
  };
  const show = (kind) => {
    view.choice = kind;
    for (const [name, pane] of Object.entries(panes)) pane.hidden = name !== kind;
    replan(view);
  };
  const kinds = radios("Source of the config", [["preset", "Preset"], ["name", "Stored"], ["own", "Write one"], ["target", "A size"]], "preset", show);
  const choose = (kind) => { kinds.querySelector(`input[value="${kind}"]`).checked = true; show(kind); };
  for (const [name, pane] of Object.entries(panes)) pane.hidden = name !== "preset";
  return { show: choose, element: section("Config", kinds, h("div", null, Object.values(panes))) };
}

/** A row of radio buttons. */
function radios(legend, choices, first, onpick) {
  const name = freshId("choice");
  return h("fieldset", { class: "segments" }, h("legend", { class: "unseen" }, legend), choices.map(([value, label]) => {
    const id = freshId("choice");
    return [h("input", { type: "radio", name, id, value, checked: value === first, onchange: () => onpick(value) }), h("label", { for: id }, label)];
  }));
}

/** Save the editor's config under a name. */
function storing(view) {
  const name = h("input", { type: "text", autocomplete: "off", spellcheck: "false" });
  const status = h("div", { role: "status" });
  const put = async () => {
    try {
      const stored = await fetchJson(`/v1/configs/${encodeURIComponent(name.value.trim())}`, { method: "PUT", body: view.editor.text(), headers: { "Content-Type": view.editor.type() }, signal: view.signal });
      fill(status, h("p", { class: "fine" }, `Saved as ${stored.reference}.`));
    } catch (error) {
      fill(status, problem(error));
    }
  };
  return h("details", null, h("summary", null, "Save under a name"), h("div", { class: "row bottom" }, field("Name", name), button("Save", put)), status);
}

function optionFields(view, models) {
  const changed = () => replan(view);
  const label = h("input", { type: "text", maxlength: 100, autocomplete: "off" });
  const priority = h("input", { type: "number", min: 0, max: 9, value: 5, required: true, onchange: changed });
  const deadline = h("input", { type: "number", min: 1, max: 43_200, placeholder: "none", onchange: changed });
  const webhook = h("input", { type: "url", placeholder: "https://", autocomplete: "off", onchange: changed });
  const weights = h("select", { onchange: changed }, h("option", { value: "" }, "All weights equal"), models.map((model) => option(model)));
  const formats = Object.entries(FORMATS).map(([format, label]) => checkbox(label, { value: format, onchange: changed }));
  const flags = {
    keep_dense: checkbox("Keep unsupported tensors dense", { onchange: changed }, "Otherwise, a job is rejected if an export format cannot express a tensor."),
    strict: checkbox("Strict", { onchange: changed }, "Reject the job if a config key matches nothing, or a rule cannot be applied to a tensor."),
    reuse: checkbox("Reuse results of earlier jobs", { checked: true, onchange: changed }, "For tensors with the same bytes and spec."),
  };
  const isOn = (box) => box.querySelector("input").checked;
  const element = h("div", { class: "stack" },
    field("Label", label, "Display name of the job."),
    h("fieldset", null, h("legend", null, "Export formats"), formats), Object.values(flags),
    h("div", { class: "columns" }, field("Priority", priority, "0 to 9; higher goes first."), field("Deadline in minutes", deadline)),
    h("details", null, h("summary", null, "More"), field("Sensitivities", weights, "A model whose tensors weight the error of each weight."), field("Webhook", webhook, "Called when the job ends.")));
  return {
    element,
    /** Set the options of a job, as far as it has them. */
    set(job) {
      priority.value = job.priority;
      label.value = job.label ?? "";
      flags.reuse.querySelector("input").checked = job.reuse;
    },
    label: () => label.value.trim(),
    read: () => ({
      formats: formats.filter(isOn).map((box) => box.querySelector("input").value), priority: Number(priority.value),
      ...Object.fromEntries(Object.entries(flags).map(([name, box]) => [name, isOn(box)])),
      ...(deadline.value && { deadline_s: Math.round(Number(deadline.value) * 60) }), ...(webhook.value && { webhook_url: webhook.value }), ...(weights.value && { sensitivities_id: weights.value }),
    }),
  };
}

/** The request, or the reason why there is none yet. */
function buildRequest(view) {
  if (view.isSending) return { why: "The plan appears once the model is uploaded." };
  if (!view.model) return { why: "Choose a model to see the plan for each of its tensors." };
  const config = { preset: () => ({ preset: view.preset }), name: () => view.name && { config_name: view.name }, own: () => view.editor.config() && { config: view.editor.config() }, target: () => view.target.request() }[view.choice]();
  if (!config) return { why: view.choice === "own" ? "The plan appears once the config is valid." : "Choose a config." };
  return { request: { model_id: view.model.id, ...config, ...view.options.read() } };
}

function replan(view) {
  clearTimeout(view.timer);
  view.pending?.abort();
  view.submit.disabled = true;
  view.sent = null;
  if (!view.model) fill(view.plan);
  view.timer = setTimeout(() => plan(view), WAIT_MS);
}

async function plan(view) {
  const { request, why } = buildRequest(view);
  fill(view.status);
  if (!request) return void fill(view.plan, h("p", { class: "hint" }, why));
  view.pending = new AbortController();
  const { signal } = view.pending;
  view.signal.addEventListener("abort", () => view.pending.abort(), { once: true });
  if (view.plan.children.length < 2) fill(view.plan, loading("Planning…"));
  try {
    const result = await planned(view, request, signal);
    const { allocation } = result;
    if (allocation && view.target.show(allocation)) {
      presetSizes(view, request).catch(() => {});  // the curve is drawn without them
      return void replan(view);
    }
    fill(view.plan, planView(result, allocation ? { menu: view.target.menu(allocation) } : { oninclude: (rule) => include(view, rule) }));
    view.sent = request;
    view.submit.disabled = false;
  } catch (error) {
    if (!signal.aborted) fill(view.plan, problem(error, button("Try again", () => plan(view)), view.choice === "target" && view.target.unpin()));
  }
}

/** Write a rule into the config, which becomes one of the user's own. */
async function include(view, rule) {
  const stored = async () => (await fetchJson(`/v1/configs/${encodeURIComponent(view.name)}`, { signal: view.signal })).config;
  try {
    const document = await { preset: () => view.documents[view.preset], name: stored, own: () => view.editor.config() }[view.choice]();
    view.editor.load(JSON.stringify(merged(document.kmeans_palettization_config ?? document, rule), null, 2));
    view.showConfig("own");
  } catch (error) {
    if (!view.signal.aborted) fill(view.status, problem(error));
  }
}

/** An object with the fields of another in it, at all levels. */
function merged(object, other) {
  const isObject = (each) => typeof each === "object" && each !== null && !Array.isArray(each);
  if (!isObject(object) || !isObject(other)) return other;
  return Object.fromEntries(Object.keys({ ...object, ...other }).map((name) => [name, name in other ? merged(object[name], other[name]) : object[name]]));
}

/** The plan of a request; the first target of a model waits for a job that scores its tensors. */
async function planned(view, json, signal) {
  for (;;) {
    const answer = await send("/v1/plans", { method: "POST", json, signal });
    const result = await answer.json();
    if (answer.status !== 202) return result;
    await scored(view, result, signal);
  }
}

/** The sizes of the presets, for the curve. */
async function presetSizes(view, { model_id }) {
  const presets = Object.keys(view.documents);
  const plans = presets.map((preset) => fetchJson("/v1/plans", { method: "POST", json: { model_id, preset }, signal: view.signal }));
  const sizes = (await Promise.all(plans)).map((each) => each.predicted_size_bytes);
  if (view.model?.id === model_id) view.target.presets(Object.fromEntries(presets.map((preset, at) => [preset, sizes[at]])));
}

/** Wait until a job has computed the scores of a model. */
async function scored(view, job, signal) {
  for (let now = job; now.state !== "succeeded"; now = await fetchJson(`/v1/jobs/${job.id}`, { signal })) {
    if (now.error) throw new Error(now.error.detail);
    if (now.state === "cancelled") throw new Error("The job that scores the tensors was cancelled.");
    const { tensors_done: done, tensors_total: total } = now.progress;
    fill(view.plan, loading(`Scoring the tensors: ${done} of ${total}…`));
    await pause(SCORES_EVERY_MS, signal);
    signal.throwIfAborted();
  }
}

/** Submit with an idempotency key: retries create only one job. */
async function submit(view) {
  view.submit.disabled = true;
  const [label, sent] = [view.options.label(), view.sent];
  const request = label ? { ...sent, label } : sent;
  const text = JSON.stringify(request);
  view.once = view.once?.sent === sent && view.once.text === text ? view.once : { sent, text, key: Array.from(crypto.getRandomValues(new Uint32Array(4)), (word) => word.toString(16)).join("-") };
  try {
    const job = await fetchJson("/v1/jobs", { method: "POST", json: request, headers: { "Idempotency-Key": view.once.key } });
    location.hash = `#/jobs/${job.id}`;
  } catch (error) {
    fill(view.status, problem(error));
    view.submit.disabled = false;
  }
}
