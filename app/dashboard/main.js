// The page's frame: which view is shown, where the focus is, whether the server is there.

import { Away, noteAway, told } from "./api.js";
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
let isLost = false;
let here = location.hash;

/** The view of the address, with what the address says. */
function found() {
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
  const view = found();
  isLost = false;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.dataset.section === view?.section) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (!view) return void fill(root, h("h1", { tabindex: -1 }, "There is no such page"), h("p", null, h("a", { href: "#/jobs" }, "To the jobs")));
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
    if (isUnloaded) noteAway();
    isLost = isUnloaded || error instanceof Away;
    fill(place, h("h1", { tabindex: -1 }, "This cannot be shown"), problem(error, button("Try again", () => route()), h("a", { class: "button", href: "#/jobs" }, "To the jobs")));
  }
  if (signal.aborted) return;
  voice.textContent = document.title;
  if (focus && !document.querySelector("dialog[open]")) place.querySelector("h1")?.focus({ preventScroll: true });
}

const keys = keyButton();
document.getElementById("key").append(keys.element);
told.addEventListener("away", () => { banner.hidden = false; });
told.addEventListener("back", () => {
  banner.hidden = true;
  voice.textContent = "The server is back.";
  if (isLost) route();
});
told.addEventListener("refused", (event) => { keys.want(); askForKey(event.detail); });
told.addEventListener("key", () => { keys.draw(); route(); });
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
  // The other views too: once the server is away, they could not be fetched.
  for (const [, load] of ROUTES) load().catch(() => {});
});
