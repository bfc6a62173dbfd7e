// The list of jobs, live.

import { actions } from "./actions.js";
import { fetchJson, follow } from "./api.js";
import { button, fill, h, freshId } from "./dom.js";
import { ago, brief, bytes, count, isSameModel, moment, ratio } from "./format.js";
import { loading, notice, problem } from "./notice.js";
import { badge, progress } from "./progress.js";

const PAGE = 100;
const STATES = ["all", "queued", "running", "succeeded", "failed", "cancelled"];
const MOST_COMPARED = 5;

export const title = () => "Jobs";

/** Show the view; it is updated until `signal` aborts. */
export async function show(root, _, signal) {
  const view = { rows: new Map(), state: "all", filter: "", cursor: null, chosen: new Map(), signal, ...skeleton() };
  view.search.addEventListener("input", () => { view.filter = view.search.value.toLowerCase(); applyFilter(view); });
  view.states.addEventListener("change", (event) => { view.state = event.target.value; load(view).catch((error) => fill(view.status, problem(error))); });
  view.more.addEventListener("click", () => load(view, view.cursor).catch((error) => fill(view.status, problem(error))));
  fill(root, view.head, view.bar, view.status, view.list, view.more);
  fill(view.status, loading("Loading jobs…"));
  await load(view);
  // After `open` no change is missed; earlier ones are in the list that is fetched then.
  const take = { open: () => load(view).catch(() => {}), job: (job) => put(view, job), gone: ({ id }) => gone(view, id) };
  const watch = { signal, onevent: (type, data) => take[type]?.(data) };
  follow("/v1/events", watch).catch((error) => fill(view.status, problem(error)));
}

function skeleton() {
  const name = freshId("state");
  const compare = h("a", { class: "button", role: "link", "aria-disabled": "true" }, "Compare");
  const search = h("input", { type: "search", placeholder: "Filter by model, label, config or id", "aria-label": "Filter jobs", autocomplete: "off" });
  const states = h("fieldset", { class: "segments" }, h("legend", { class: "unseen" }, "State"), STATES.map((state) => {
    const id = freshId("segment");
    return [h("input", { type: "radio", name, id, value: state, checked: state === "all" }), h("label", { for: id }, state)];
  }));
  const bar = h("div", { class: "toolbar" }, search, states, compare);
  const head = h("div", { class: "pagehead" }, h("h1", { tabindex: -1 }, "Jobs"), h("a", { class: "button primary", href: "#/new" }, "New job"));
  return { head, search, states, compare, bar, status: h("div"), list: h("ul", { class: "jobs", "aria-label": "Jobs, newest first" }), more: button("Show more", null, { hidden: true }) };
}

/** Fetch the first page, or the page after a cursor. */
async function load(view, cursor = null) {
  const query = new URLSearchParams({ limit: PAGE });
  if (cursor) query.set("cursor", cursor);
  if (view.state !== "all") query.set("state", view.state);
  const state = view.state;
  const page = await fetchJson(`/v1/jobs?${query}`, { signal: view.signal });
  if (state !== view.state) return;
  if (!cursor) {
    const ids = new Set(page.items.map((job) => job.id));
    for (const id of [...view.rows.keys()]) if (!ids.has(id)) drop(view, id);
  }
  for (const job of page.items) put(view, job);
  view.cursor = page.next_cursor;
  view.more.hidden = !page.next_cursor;
  applyFilter(view);
}

/** Show or update a job, at its place in the list: newest first. */
function put(view, job) {
  if (view.state !== "all" && job.state !== view.state) return gone(view, job.id);
  let row = view.rows.get(job.id);
  if (!row) {
    row = newRow(view, job);
    view.rows.set(job.id, row);
    const behind = [...view.list.children].find((each) => each.dataset.at < job.created_at);
    row.element.dataset.at = job.created_at;
    view.list.insertBefore(row.element, behind ?? null);
  }
  row.update(job);
  applyFilter(view);
}

function drop(view, id) {
  view.rows.get(id)?.element.remove();
  view.rows.delete(id);
  view.chosen.delete(id);
}

function gone(view, id) {
  drop(view, id);
  drawCompare(view);
  applyFilter(view);
}

/** Hide jobs that do not match the filter; show a notice if none is left. */
function applyFilter(view) {
  let seen = 0;
  for (const { element, text } of view.rows.values()) {
    element.hidden = !text().includes(view.filter);
    seen += Number(!element.hidden);
  }
  view.bar.hidden = false;
  if (seen > 0) return void fill(view.status);
  const empty = view.rows.size === 0 && view.state === "all";
  view.bar.hidden = empty;
  fill(view.status, notice("quiet", empty
    ? [h("p", null, "No jobs yet. Upload a model, choose a config, and see the plan for each tensor before anything runs."), h("a", { class: "button primary", href: "#/new" }, "Start the first job")]
    : h("p", null, "No job matches. “Show more” loads older jobs.")));
}

function newRow(view, first) {
  const bar = progress();
  const parts = {
    name: h("a", { class: "jobname", href: `#/jobs/${first.id}` }, first.model_name),
    label: first.label && h("span", { class: "joblabel" }, first.label),
    meta: h("p", { class: "hint" }),
    state: h("div", { class: "jobstate" }),
    sizes: h("div", { class: "jobsizes number" }),
    when: h("time", { class: "jobwhen hint" }),
    acts: h("div", { class: "jobacts row" }),
    status: h("div", { class: "jobstatus" }),
    choose: h("input", { type: "checkbox", "aria-label": `Compare ${first.model_name} ${brief(first.id)}` }),
  };
  let job = first;
  let drawn = "";
  parts.choose.addEventListener("change", () => choose(view, job, parts.choose));
  const element = h("li", { class: "job" }, h("div", { class: "jobchoose" }, parts.choose), h("div", { class: "jobtitle" }, parts.name, parts.label, parts.meta),
    h("div", null, parts.state, bar.element), parts.sizes, parts.when, parts.acts, parts.status);

  function update(changed) {
    job = changed;
    bar.update(job);
    const seen = JSON.stringify([job.state, job.attempt, job.size_after_bytes, job.error]);
    if (seen === drawn) return;
    drawn = seen;
    drawRow(parts, job);
    const done = (other) => (other ? put(view, other) : gone(view, job.id));
    fill(parts.acts, actions(job, done, (error) => fill(parts.status, problem(error))));
    if (job.state !== "succeeded") view.chosen.delete(job.id);
    drawCompare(view);
  }

  return { element, update, text: () => `${job.model_name} ${job.label ?? ""} ${job.config_name ?? ""} ${job.id}`.toLowerCase() };
}

function drawRow(parts, job) {
  const more = [brief(job.id), job.kind === "scores" ? "scores" : job.config_name, job.attempt > 0 && `attempt ${job.attempt + 1}`, job.priority !== 5 && `priority ${job.priority}`];
  parts.meta.textContent = more.filter(Boolean).join(" · ");
  fill(parts.state, badge(job.state), job.error && h("p", { class: "why" }, job.error.detail));
  const after = job.size_after_bytes;
  fill(parts.sizes, after === null
    ? h("span", null, bytes(job.size_before_bytes))
    : [h("span", null, `${bytes(job.size_before_bytes)} → ${bytes(after)}`), h("span", { class: "hint" }, `${ratio(job.size_before_bytes, after)} smaller`)]);
  parts.when.dateTime = job.created_at;
  parts.when.title = moment(job.created_at);
  parts.when.textContent = ago(job.created_at);
  parts.choose.disabled = job.state !== "succeeded" || job.kind === "scores";
  if (parts.choose.disabled) parts.choose.checked = false;
  fill(parts.status);
}

function choose(view, job, box) {
  if (box.checked) view.chosen.set(job.id, job);
  else view.chosen.delete(job.id);
  drawCompare(view);
}

/** Update the link to the comparison; without one, its title is the reason. */
function drawCompare({ compare, chosen }) {
  const jobs = [...chosen.values()];
  const areOfOneModel = jobs.every((job) => isSameModel(job, jobs[0]));
  const why = jobs.length < 2 ? "Choose two to five succeeded jobs of one model" : jobs.length > MOST_COMPARED ? `At most ${MOST_COMPARED} jobs` : !areOfOneModel ? "These jobs are of different models" : "";
  compare.textContent = jobs.length ? `Compare ${count(jobs.length)}` : "Compare";
  compare.title = why;
  if (why) {
    compare.removeAttribute("href");
    compare.setAttribute("aria-disabled", "true");
  } else {
    compare.href = `#/compare?jobs=${jobs.map((job) => job.id).join(",")}`;
    compare.removeAttribute("aria-disabled");
  }
}
