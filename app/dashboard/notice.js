import { h } from "./dom.js";

/** An error message of the server, with its invalid fields. */
export function problem(error, ...actions) {
  const fields = (error.errors ?? []).map((each) =>
    h("li", null, h("code", null, each.pointer || "/"), each.line ? ` line ${each.line}` : null, ` ${each.detail}`),
  );
  return h(
    "div",
    { class: "notice bad", role: "alert" },
    error.title && h("strong", null, error.title),
    h("p", null, error.message ?? error.detail),
    fields.length > 0 && h("ul", { class: "faults" }, fields),
    actions.length > 0 && h("div", { class: "row" }, actions),
  );
}

/** A notice. */
export function notice(kind, ...children) {
  return h("div", { class: `notice ${kind}` }, ...children);
}

/** A loading indicator. */
export function loading(what) {
  return h("p", { class: "loading", role: "status" }, what);
}
