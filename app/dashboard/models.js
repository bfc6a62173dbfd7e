// The models that were uploaded: to begin a job with, or to delete.

import { all, ask } from "./api.js";
import { button, confirmed, fill, h } from "./dom.js";
import { ago, brief, bytes, count, moment } from "./format.js";
import { notice, problem } from "./notice.js";

const MOST_LISTED = 300;

export const title = () => "Models";

export async function show(root, _, signal) {
  const view = { signal, said: h("div"), list: h("ul", { class: "jobs", "aria-label": "Models, newest first" }) };
  const models = await all("/v1/models", MOST_LISTED, signal);
  fill(root, h("div", { class: "pagehead" }, h("h1", { tabindex: -1 }, "Models"), h("a", { class: "button primary", href: "#/new" }, "New job")), view.said, view.list);
  fill(view.list, models.map((model) => row(view, model)));
  tellEmpty(view);
}

function tellEmpty({ list, said }) {
  if (list.children.length === 0) fill(said, notice("quiet", h("p", null, "No model is kept here. One is, for a while, once its files were dropped for a new job or uploaded."), h("a", { class: "button primary", href: "#/new" }, "Upload one")));
}

function row(view, model) {
  const said = h("div", { class: "jobsaid" });
  const named = model.label ?? model.name;
  const remove = button("Delete", async (event) => {
    const pressed = event.currentTarget;
    if (!(await confirmed("Delete this model?", `The files of ${named} are removed, unless a job needs them. Jobs made of it stay. This cannot be undone.`, "Delete the model"))) return;
    pressed.disabled = true;
    try {
      await ask(`/v1/models/${model.id}`, { method: "DELETE", signal: view.signal });
      element.remove();
      tellEmpty(view);
    } catch (error) {
      pressed.disabled = false;
      if (!view.signal.aborted) fill(said, problem(error));
    }
  }, { class: "small", "aria-label": `Delete ${named}` });
  const element = h("li", { class: "job model" },
    h("div", { class: "jobtitle" }, h("span", { class: "jobname" }, model.name), model.label && h("span", { class: "joblabel" }, model.label),
      h("p", { class: "hint" }, `${brief(model.id)} · ${model.format} · ${count(model.tensors_total)} tensors`)),
    h("div", { class: "jobsizes number" }, bytes(model.size_bytes)),
    h("time", { class: "jobwhen hint", datetime: model.created_at, title: `uploaded ${moment(model.created_at)}, removed ${moment(model.expires_at)} unless a job uses it` }, ago(model.created_at)),
    h("div", { class: "jobacts row" }, h("a", { class: "button small", href: `#/new?model=${model.id}`, "aria-label": `New job of ${named}` }, "New job"), remove), said);
  return element;
}
