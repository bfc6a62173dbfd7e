// A new job: a model, a config, what else it is to do, and what would come of it.

import { all, ask } from "./api.js";
import { dropZone } from "./drop.js";
import { editor } from "./editor.js";
import { button, field, fill, freshId, h, tick } from "./dom.js";
import { brief, bytes, counted } from "./format.js";
import { loading, notice, problem } from "./notice.js";
import { planView } from "./plantree.js";
import { section } from "./results.js";

const WAIT_MS = 150;
const MOST_LISTED = 300;
const FORMATS = { dense: "dense safetensors", torchao: "torchao state dict", coreai: "Core AI (needs a .pt2)", coreml: "Core ML (needs a .pt2)" };

export const title = () => "New job";

export async function show(root, { query }, signal) {
  const [models, configs, presets] = await Promise.all([all("/v1/models", MOST_LISTED, signal), all("/v1/configs", MOST_LISTED, signal), ask("/v1/presets", { signal })]);
  const view = { signal, model: null, isSending: false, choice: "preset", preset: Object.keys(presets)[0], name: configs[0]?.name ?? null, plan: h("div", { class: "stack" }), said: h("div"), timer: null, asking: null, sent: null };
  view.submit = button("Submit the job", () => submit(view), { class: "primary", disabled: true });
  view.editor = editor({ signal, onchange: () => view.choice === "own" && replan(view) });
  view.options = optionFields(view, models);
  const chooser = modelCard(view, models);
  const config = configCard(view, presets, configs);
  fill(root,
    h("div", { class: "pagehead" }, h("h1", { tabindex: -1 }, "New job")),
    h("div", { class: "split" },
      h("div", { class: "stack" }, chooser.element, config.element, section("Options", view.options.element)),
      h("div", { class: "stack" }, h("section", { class: "card plan", "aria-label": "Plan" }, h("div", { class: "pagehead" }, h("h2", null, "Plan"), view.submit), view.said, view.plan))));
  const job = query.get("job") && (await again(view, query.get("job"), config));
  const id = job ? job.model_id : query.get("model");
  const wanted = models.find((model) => model.id === id) ?? (id && (await ask(`/v1/models/${encodeURIComponent(id)}`, { signal }).catch(() => null)));
  if (wanted) return chooser.use(wanted);
  if (job) chooser.say(notice("quiet", h("p", null, `The model of that job, ${job.model_name}, is not kept here: drop its files again, or choose one.`)));
  return replan(view);
}

/** Begin with the config and the options of a job, to be changed. */
async function again(view, id, config) {
  const path = `/v1/jobs/${encodeURIComponent(id)}`;
  const [job, document] = await Promise.all([ask(path, { signal: view.signal }), ask(`${path}/config`, { signal: view.signal })]);
  view.options.set(job);
  view.editor.load(JSON.stringify(document, null, 2));
  config.show("own");
  return job;
}

function modelCard(view, models) {
  const select = h("select", null, h("option", { value: "" }, models.length ? "Choose…" : "None yet"), models.map((model) => option(model)));
  const chosen = h("div", { role: "status" });
  const leave = () => {
    view.model = null;
    select.value = "";
    fill(chosen);
    replan(view);
  };
  const use = (model) => {
    if (![...select.options].some((each) => each.value === model.id)) select.append(option(model));
    select.value = model.id;
    view.model = model;
    fill(chosen, h("p", { class: "fine" }, `${model.name}: ${counted(model.tensors_total, "tensor")}, ${bytes(model.size_bytes)}, ${model.format}`), (model.warnings ?? []).length > 0 && notice("warn", h("ul", null, model.warnings.map((each) => h("li", null, each)))));
    replan(view);
  };
  select.addEventListener("change", () => {
    const model = models.find((each) => each.id === select.value);
    if (model) use(model);
    else leave();
  });
  // While files are sent, no other model is chosen: what is submitted is what was dropped last.
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
  return { use, say: (...words) => fill(chosen, ...words), element: section("Model", drop, field("Or one that is here already", select), chosen) };
}

function option(model) {
  return h("option", { value: model.id }, `${model.label ? `${model.label}: ` : ""}${model.name} (${bytes(model.size_bytes)}, ${brief(model.id)})`);
}

function configCard(view, presets, configs) {
  const panes = {
    preset: radios("Preset", Object.keys(presets).map((name) => [name, name]), view.preset, (name) => { view.preset = name; replan(view); }),
    name: configs.length ? field("Stored config", h("select", { onchange: (event) => { view.name = event.target.value; replan(view); } }, configs.map((config) => h("option", { value: config.name }, config.reference))))
      : h("p", { class: "hint" }, "No config is stored yet: write one, and store it under a name."),
    own: h("div", { class: "stack" }, view.editor.element, storing(view)),
  };
  const show = (kind) => {
    view.choice = kind;
    for (const [name, pane] of Object.entries(panes)) pane.hidden = name !== kind;
    replan(view);
  };
  const kinds = radios("Where the config comes from", [["preset", "Preset"], ["name", "Stored"], ["own", "Write one"]], "preset", show);
  const choose = (kind) => { kinds.querySelector(`input[value="${kind}"]`).checked = true; show(kind); };
  for (const [name, pane] of Object.entries(panes)) pane.hidden = name !== "preset";
  return { show: choose, element: section("Config", kinds, h("div", null, Object.values(panes))) };
}

/** A row of choices of which one holds. */
function radios(legend, choices, first, onpick) {
  const name = freshId("choice");
  return h("fieldset", { class: "segments" }, h("legend", { class: "unseen" }, legend), choices.map(([value, label]) => {
    const id = freshId("choice");
    return [h("input", { type: "radio", name, id, value, checked: value === first, onchange: () => onpick(value) }), h("label", { for: id }, label)];
  }));
}

/** Keeps what is in the editor under a name. */
function storing(view) {
  const name = h("input", { type: "text", autocomplete: "off", spellcheck: "false" });
  const said = h("div", { role: "status" });
  const put = async () => {
    try {
      const stored = await ask(`/v1/configs/${encodeURIComponent(name.value.trim())}`, { method: "PUT", body: view.editor.text(), headers: { "Content-Type": view.editor.type() }, signal: view.signal });
      fill(said, h("p", { class: "fine" }, `Stored as ${stored.reference}.`));
    } catch (error) {
      fill(said, problem(error));
    }
  };
  return h("details", null, h("summary", null, "Store it under a name"), h("div", { class: "row bottom" }, field("Name", name), button("Store", put)), said);
}

function optionFields(view, models) {
  const changed = () => replan(view);
  const label = h("input", { type: "text", maxlength: 100, autocomplete: "off" });
  const priority = h("input", { type: "number", min: 0, max: 9, value: 5, required: true, onchange: changed });
  const deadline = h("input", { type: "number", min: 1, max: 43_200, placeholder: "none", onchange: changed });
  const webhook = h("input", { type: "url", placeholder: "https://", autocomplete: "off", onchange: changed });
  const weights = h("select", { onchange: changed }, h("option", { value: "" }, "All weights count alike"), models.map((model) => option(model)));
  const formats = Object.entries(FORMATS).map(([format, label]) => tick(label, { value: format, onchange: changed }));
  const flags = {
    keep_dense: tick("Keep dense what a form cannot express", { onchange: changed }, "Else such a job is refused."),
    strict: tick("Refuse what cannot all be done", { onchange: changed }, "When a key matches nothing, or a tensor cannot take what a rule asks."),
    reuse: tick("Take results of earlier jobs", { checked: true, onchange: changed }, "Where bytes and spec are the same."),
  };
  const isOn = (box) => box.querySelector("input").checked;
  const element = h("div", { class: "stack" },
    field("Label", label, "What to call the job."),
    h("fieldset", null, h("legend", null, "Other forms of the artifact"), formats), Object.values(flags),
    h("div", { class: "columns" }, field("Priority", priority, "0 to 9; higher goes first."), field("Deadline in minutes", deadline)),
    h("details", null, h("summary", null, "More"), field("Sensitivities", weights, "A model whose tensors say how much the error of each weight counts."), field("Webhook", webhook, "Is told of the job's end.")));
  return {
    element,
    /** As they were for a job, as far as it tells. */
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

/** The request, or why there is none yet. */
function order(view) {
  if (view.isSending) return { why: "The plan comes once the model's files are sent." };
  if (!view.model) return { why: "Choose a model to see what each of its tensors would get." };
  const config = { preset: () => ({ preset: view.preset }), name: () => view.name && { config_name: view.name }, own: () => view.editor.config() && { config: view.editor.config() } }[view.choice]();
  if (!config) return { why: view.choice === "own" ? "The plan comes once the config is valid." : "Choose a config." };
  return { asked: { model_id: view.model.id, ...config, ...view.options.read() } };
}

function replan(view) {
  clearTimeout(view.timer);
  view.asking?.abort();
  view.submit.disabled = true;
  view.sent = null;
  if (!view.model) fill(view.plan);
  view.timer = setTimeout(() => plan(view), WAIT_MS);
}

async function plan(view) {
  const { asked, why } = order(view);
  fill(view.said);
  if (!asked) return void fill(view.plan, h("p", { class: "hint" }, why));
  view.asking = new AbortController();
  const { signal } = view.asking;
  view.signal.addEventListener("abort", () => view.asking.abort(), { once: true });
  if (view.plan.children.length < 2) fill(view.plan, loading("Planning…"));
  try {
    const found = await ask("/v1/plans", { method: "POST", json: asked, signal });
    fill(view.plan, planView(found));
    view.sent = asked;
    view.submit.disabled = false;
  } catch (error) {
    if (!signal.aborted) fill(view.plan, problem(error, button("Try again", () => plan(view))));
  }
}

/** Sent with a key of its own: however often it must be sent, it makes one job. */
async function submit(view) {
  view.submit.disabled = true;
  const [label, sent] = [view.options.label(), view.sent];
  const asked = label ? { ...sent, label } : sent;
  const text = JSON.stringify(asked);
  view.once = view.once?.sent === sent && view.once.text === text ? view.once : { sent, text, key: Array.from(crypto.getRandomValues(new Uint32Array(4)), (word) => word.toString(16)).join("-") };
  try {
    const job = await ask("/v1/jobs", { method: "POST", json: asked, headers: { "Idempotency-Key": view.once.key } });
    location.hash = `#/jobs/${job.id}`;
  } catch (error) {
    fill(view.said, problem(error));
    view.submit.disabled = false;
  }
}
