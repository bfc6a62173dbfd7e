// The list of uploaded models.

import { fetchAll, fetchJson } from "./api.js";
import { button, confirmed, fill, h } from "./dom.js";
import { ago, brief, bytes, count, moment } from "./format.js";
import { notice, problem } from "./notice.js";

const MOST_LISTED = 300;

export const title = () => "Models";

export async function show(root, _, signal) {
  const view = { signal, status: h("div"), list: h("ul", { class: "jobs", "aria-label": "Models, newest first" }) };
  const models = await fetchAll("/v1/models", MOST_LISTED, signal);
  fill(root, h("div", { class: "pagehead" }, h("h1", { tabindex: -1 }, "Models"), h("a", { class: "button primary", href: "#/new" }, "New job")), view.status, view.list);
  fill(view.list, models.map((model) => row(view, model)));
  tellEmpty(view);
}

function tellEmpty({ list, status }) {
  if (list.children.length === 0) fill(status, notice("quiet", h("p", null, "No models are stored. Models that you upload are stored here for a while."), h("a", { class: "button primary", href: "#/new" }, "Upload a model")));
}

function row(view, model) {
  const status = h("div", { class: "jobstatus" });
  const named = model.label ?? model.name;
  const remove = button("Delete", async (event) => {
    const pressed = event.currentTarget;
    if (!(await confirmed("Delete this model?", `The files of ${named} are deleted, unless a job needs them. Its jobs are kept. This cannot be undone.`, "Delete the model"))) return;
    pressed.disabled = true;
    try {
      await fetchJson(`/v1/models/${model.id}`, { method: "DELETE", signal: view.signal });
      element.remove();
      tellEmpty(view);
    } catch (error) {
      pressed.disabled = false;
      if (!view.signal.aborted) fill(status, problem(error));
    }
  }, { class: "small", "aria-label": `Delete ${named}` });
  const element = h("li", { class: "job model" },
    h("div", { class: "jobtitle" }, h("span", { class: "jobname" }, model.name), model.label && h("span", { class: "joblabel" }, model.label),
      h("p", { class: "hint" }, `${brief(model.id)} · ${model.format} · ${count(model.tensors_total)} tensors`)),
    h("div", { class: "jobsizes number" }, bytes(model.size_bytes)),
    h("time", { class: "jobwhen hint", datetime: model.created_at, title: `uploaded ${moment(model.created_at)}, deleted ${moment(model.expires_at)} unless a job uses it` }, ago(model.created_at)),
    h("div", { class: "jobacts row" }, h("a", { class: "button small", href: `#/new?model=${model.id}`, "aria-label": `New job with ${named}` }, "New job"), remove), status);
  return element;
}
