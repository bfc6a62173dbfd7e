// State of the service: queue, workers, storage, key and versions.

import { ApiError, fetchJson, key, pause, useKey } from "./api.js";
import { button, fill, h } from "./dom.js";
import { ago, bytes, count, fixed, moment, percent } from "./format.js";
import { askForKey } from "./key.js";
import { loading, problem } from "./notice.js";
import { facts, section } from "./results.js";
import { amount, table, words } from "./table.js";

const POLL_EVERY_MS = 2_000;

export const title = () => "Service";

export async function show(root, _, signal) {
  const head = h("div", { class: "pagehead" }, h("h1", { tabindex: -1 }, "Service"));
  const view = { status: h("div"), parts: Object.fromEntries(["queue", "workers", "storage", "who", "versions"].map((name) => [name, h("div")])), drawn: {} };
  fill(root, head, view.status, loading("Loading…"));
  const first = await Promise.all([fetchJson("/v1/service", { signal }), fetchJson("/v1/me", { signal })]);
  const { queue, workers, storage, who, versions } = view.parts;
  fill(root, head, view.status, h("div", { class: "halves" }, queue, storage), workers, who, versions);
  draw(view, ...first);
  watch(view, signal);
}

/** Look again and again, while the page is seen. */
async function watch(view, signal) {
  for (;;) {
    await pause(POLL_EVERY_MS, signal);
    if (signal.aborted) return;
    if (document.hidden) continue;
    try {
      draw(view, ...(await Promise.all([fetchJson("/v1/service", { signal }), fetchJson("/v1/me", { signal })])));
      fill(view.status);
    } catch (error) {
      if (error instanceof ApiError) fill(view.status, problem(error));
    }
  }
}

/** Redraw only changed parts, to keep focus and scroll position in the others. */
function draw(view, service, me) {
  const drawings = { queue: queueCard(service), workers: workersCard(service), storage: storageCard(service), who: whoCard(service, me), versions: versionsCard(service) };
  for (const [name, [seen, card]] of Object.entries(drawings)) {
    const state = JSON.stringify(seen);
    if (view.drawn[name] === state) continue;
    view.drawn[name] = state;
    fill(view.parts[name], card());
  }
}

function queueCard({ queue }) {
  const rows = [["Running", "running"], ["Queued", "queued"]];
  return [queue, () => section("Queue", h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Queue" }, h("table", null, h("caption", { class: "unseen" }, "Queued and running jobs"),
    h("thead", null, h("tr", null, h("th", { scope: "col" }, "Jobs"), h("th", { scope: "col", class: "number" }, "Yours"), h("th", { scope: "col", class: "number" }, "All"))),
    h("tbody", null, rows.map(([label, name]) => h("tr", null, h("th", { scope: "row" }, label), h("td", { class: "number" }, count(queue.own[name])), h("td", { class: "number" }, count(queue.all[name]))))))))];
}

function storageCard({ store, used, limits, database }) {
  const taken = store.size_bytes === null ? null : store.size_bytes - store.free_bytes;
  return [[store.kind, rough(store.free_bytes), used, limits, database], () => section("Storage",
    taken !== null && meter("Disk of the store", taken, store.size_bytes, `${bytes(store.free_bytes)} free of ${bytes(store.size_bytes)}`),
    limits.stored_bytes !== null && meter("Your quota", used.stored_bytes, limits.stored_bytes, `${bytes(used.stored_bytes)} of ${bytes(limits.stored_bytes)}`),
    facts([
      ["Store", store.kind === "file" ? "folder" : store.kind], ["Database", database],
      limits.stored_bytes === null && ["Your usage", bytes(used.stored_bytes)],
      ["Largest upload", limits.upload_bytes === null ? "no limit" : bytes(limits.upload_bytes)],
    ]))];
}

/** Round free bytes, which change all the time, to what is visible. */
function rough(size) {
  return size === null ? null : Math.round(size / 10_000_000);
}

function meter(label, part, whole, note) {
  return h("div", { class: "meter" }, h("span", null, label), h("progress", { max: 1, value: whole ? Math.min(1, part / whole) : 0, "aria-label": label }), h("span", { class: "hint" }, `${percent(part, whole)} used, ${note}`));
}

function workersCard({ workers, controllers, role }) {
  const processes = workers.processes ?? [];
  return [[workers, controllers, role], () => section("Workers",
    facts([["Workers", count(workers.count)], ["Busy", workers.busy === null ? "unknown" : count(workers.busy)], ["Idle", workers.idle === null ? "unknown" : count(workers.idle)], ["Controllers", count(controllers.length)]]),
    processes.length > 0 && table([
      { label: "Worker", value: (row) => String(row.number) },
      words("State", "state"),
      amount("CPU %", "cpu_percent", (value) => fixed(value, 0)),
      amount("Memory", "memory_bytes", bytes),
      { label: "Memory limit", numeric: true, value: (row) => row.memory_limit_bytes, cell: (row) => (row.memory_limit_bytes === null ? "none" : bytes(row.memory_limit_bytes)) },
    ], processes.map((each, at) => ({ ...each, number: at + 1 })), { name: "workers", caption: "Workers", page: 20 }).element,
    controllers.length > 0 && table([
      words("Controller", "executor_id"),
      words("Version", "version"),
      amount("Workers", "workers"),
      { label: "Last seen", value: (row) => row.seen_at, cell: (row) => h("time", { datetime: row.seen_at, title: moment(row.seen_at) }, ago(row.seen_at)) },
    ], controllers, { name: "controllers", caption: "Controllers", page: 20 }).element)];
}

function whoCard({ has_keys }, me) {
  const current = key();
  const acts = current ? button("Forget this key", () => useKey("")) : button("Enter a key", () => askForKey());
  return [[has_keys, me.owner, me.scopes, current !== ""], () => section("Your key",
    facts([["Owner", me.owner], ["Scopes", me.scopes.join(", ")], ["Key", current ? "stored in this tab until it is closed" : has_keys ? "none" : "not required"]]),
    (has_keys || current) && h("div", { class: "row" }, acts))];
}

function versionsCard({ version, software, role, started_at }) {
  return [[version, software, role, started_at], () => section("Versions",
    facts([["Palettery", version], ["Role", role], ["Started", moment(started_at)]]),
    table([{ label: "Software", value: ([name]) => name }, { label: "Version", value: ([, each]) => each }], Object.entries(software), { name: "software", caption: "Software", page: 30 }).element)];
}
