// A table with sorting, filter, pagination and CSV download.

import { button, fill, freshId, h, save } from "./dom.js";
import { count, csv } from "./format.js";

const PAGE = 50;

/** A column of numbers, optionally formatted by `show`. */
export function amount(label, name, show) {
  return { label, numeric: true, value: (row) => row[name], cell: show && ((row) => show(row[name])) };
}

/** A column of text. */
export function words(label, name) {
  return { label, value: (row) => row[name] };
}

/**
 * A table. A column is `{label, value(row), cell?(row), numeric?, sort?}`; `options` may have `name`
 * (of the CSV file), `caption`, `search` (a row's text), `key(row)`, `onpick(row)`, `order` and `page`.
 */
export function table(columns, rows, options = {}) {
  const state = { rows, by: options.order?.by ?? null, down: options.order?.down ?? false, page: 0, wanted: "", picked: null };
  const parts = skeleton(columns, options, state, () => draw());

  function visibleRows() {
    const wanted = state.wanted.toLowerCase();
    const matches = wanted ? state.rows.filter((row) => options.search(row).toLowerCase().includes(wanted)) : state.rows.slice();
    if (state.by !== null) matches.sort(comparing(columns[state.by], state.down));
    return matches;
  }

  function draw() {
    const matches = visibleRows();
    const size = options.page ?? PAGE;
    const pages = Math.max(1, Math.ceil(matches.length / size));
    state.page = Math.min(state.page, pages - 1);
    const first = state.page * size;
    fill(parts.body, matches.slice(first, first + size).map((row) => line(columns, row, options, state)));
    drawHeads(parts.heads, state);
    const last = Math.min(first + size, matches.length);
    parts.place.textContent = matches.length ? `${count(first + 1)}–${count(last)} of ${count(matches.length)}` : "no rows";
    parts.before.disabled = state.page === 0;
    parts.after.disabled = state.page >= pages - 1;
    parts.turn.hidden = pages === 1;
  }

  parts.download.addEventListener("click", () => {
    const text = csv(columns.map((column) => column.label), visibleRows().map((row) => columns.map((column) => column.value(row))));
    save(new Blob([text], { type: "text/csv" }), `${options.name ?? "table"}.csv`);
  });
  draw();
  return {
    element: parts.element,
    /** Show other rows. */
    update(others) { state.rows = others; draw(); },
    /** Order the rows by a column. */
    order(by, down) { Object.assign(state, { by, down, page: 0 }); draw(); },
    /** Highlight a row, and show its page. */
    pick(key) {
      state.picked = key;
      const at = visibleRows().findIndex((row) => options.key(row) === key);
      if (at >= 0) state.page = Math.floor(at / (options.page ?? PAGE));
      draw();
      parts.body.querySelector(".picked")?.scrollIntoView({ block: "nearest" });
    },
  };
}

function skeleton(columns, options, state, draw) {
  const caption = h("caption", { class: options.search ? "unseen" : null }, options.caption ?? "Numbers");
  const heads = columns.map((column, by) =>
    h("th", { scope: "col", class: column.numeric && "number" }, button(column.label, () => {
      state.down = state.by === by ? !state.down : Boolean(column.numeric);
      Object.assign(state, { by, page: 0 });
      draw();
    }, { class: "sort" })),
  );
  const body = h("tbody");
  const place = h("span", { class: "hint", role: "status" });
  const before = button("Previous", () => { state.page -= 1; draw(); }, { class: "small" });
  const after = button("Next", () => { state.page += 1; draw(); }, { class: "small" });
  const turn = h("span", { class: "row" }, before, after);
  const download = button("Download CSV", null, { class: "link" });
  const id = freshId("search");
  const search = options.search && h("input", {
    type: "search", id, placeholder: "Filter", "aria-label": `Filter: ${options.caption ?? "table"}`, autocomplete: "off",
    oninput: (event) => { state.wanted = event.target.value; state.page = 0; draw(); },
  });
  const element = h(
    "div",
    { class: "tabled" },
    h("div", { class: "tablebar" }, search, place, turn, download),
    h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": options.caption ?? "Table" },
      h("table", null, caption, h("thead", null, h("tr", null, heads)), body)),
  );
  return { element, heads, body, place, before, after, turn, download };
}

function line(columns, row, options, state) {
  const isPicked = options.key !== undefined && options.key(row) === state.picked;
  const cells = columns.map((column, at) => {
    const value = column.cell ? column.cell(row) : column.value(row);
    return h(at === 0 ? "th" : "td", { class: column.numeric && "number", scope: at === 0 ? "row" : null }, value ?? "–");
  });
  const onclick = options.onpick && ((event) => { if (!event.target.closest("a, button")) options.onpick(row); });
  return h("tr", { class: isPicked ? "picked" : null, "aria-current": isPicked ? "true" : null, onclick }, cells);
}

function drawHeads(heads, state) {
  heads.forEach((head, by) => {
    if (by === state.by) head.setAttribute("aria-sort", state.down ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  });
}

/** A comparator that puts rows without a value last, in either direction. */
function comparing(column, down) {
  const value = column.sort ?? column.value;
  const way = down ? -1 : 1;
  return (one, other) => {
    const [a, b] = [value(one), value(other)];
    const isNone = (each) => each === null || each === undefined;
    if (isNone(a) || isNone(b)) return Number(isNone(a)) - Number(isNone(b));
    return way * (typeof a === "string" ? a.localeCompare(b) : a - b);
  };
}
