// The page's frame: routing, focus, and connection state.

import { Unavailable, connection, noteUnavailable } from "./api.js";
import { button, fill, h } from "./dom.js";
import { askForKey, keyButton } from "./key.js";
import { isBusy, mayLeave } from "./leave.js";
import { loading, problem } from "./notice.js";

const ROUTES = [
  [/^\/(?:jobs)?$/, () => import("./jobs.js"), "jobs"],
  [/^\/new$/, () => import("./new.js"), "new"],
  [/^\/jobs\/([^/]+)$/, () => import("./job.js"), "jobs"],
  [/^\/jobs\/([^/]+)\/tensors\/([^/]+)$/, () => import("./tensor.js"), "jobs"],
  [/^\/models$/, () => import("./models.js"), "models"],
  [/^\/compare$/, () => import("./compare.js"), "compare"],
  [/^\/service$/, () => import("./service.js"), "service"],
];

const root = document.getElementById("view");
const banner = document.getElementById("away");
const voice = document.getElementById("voice");
let leaving = new AbortController();
let isFailed = false;
let here = location.hash;

/** The view of the current URL, with its parameters. */
function currentView() {
  const [path, query = ""] = location.hash.slice(1).split("?");
  for (const [pattern, load, section] of ROUTES) {
    const match = pattern.exec(path || "/");
    if (match) return { load, section, words: match.slice(1).map(decoded), query: new URLSearchParams(query) };
  }
  return null;
}

function decoded(word) {
  try {
    return decodeURIComponent(word);
  } catch {
    return word;
  }
}

async function route({ focus = true } = {}) {
  leaving.abort();
  leaving = new AbortController();
  const { signal } = leaving;
  const view = currentView();
  isFailed = false;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.dataset.section === view?.section) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (!view) return void fill(root, h("h1", { tabindex: -1 }, "Page not found"), h("p", null, h("a", { href: "#/jobs" }, "Go to jobs")));
  const place = h("div", { class: "view" }, loading("Loading…"));
  fill(root, place);
  try {
    const module = await view.load();
    if (signal.aborted) return;
    document.title = `${module.title(view)} · Palettery`;
    await module.show(place, view, signal);
  } catch (error) {
    if (signal.aborted) return;
    const isUnloaded = error instanceof TypeError && /module/.test(error.message);
    if (isUnloaded) noteUnavailable();
    isFailed = isUnloaded || error instanceof Unavailable;
    fill(place, h("h1", { tabindex: -1 }, "This page cannot be shown"), problem(error, button("Try again", () => route()), h("a", { class: "button", href: "#/jobs" }, "Go to jobs")));
  }
  if (signal.aborted) return;
  voice.textContent = document.title;
  if (focus && !document.querySelector("dialog[open]")) place.querySelector("h1")?.focus({ preventScroll: true });
}

const keys = keyButton();
document.getElementById("key").append(keys.element);
connection.addEventListener("away", () => { banner.hidden = false; });
connection.addEventListener("back", () => {
  banner.hidden = true;
  voice.textContent = "Reconnected to the server.";
  if (isFailed) route();
});
connection.addEventListener("refused", (event) => { keys.want(); askForKey(event.detail); });
connection.addEventListener("key", () => { keys.draw(); route(); });
addEventListener("hashchange", async () => {
  const wanted = location.hash;
  if (wanted === here) return;
  if (isBusy()) {
    history.replaceState(null, "", here || "#/jobs");
    if (!(await mayLeave())) return;
    history.replaceState(null, "", wanted);
  }
  here = wanted;
  scrollTo(0, 0);
  route();
});
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  root.focus();
});
route({ focus: false }).then(() => {
  // Load the other views as well: without a server they could not be fetched later.
  for (const [, load] of ROUTES) load().catch(() => {});
});
