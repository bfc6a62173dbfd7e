// Where files are dropped: they are hashed, sent, and become a model.

import { ask, isFinal } from "./api.js";
import { button, fill, freshId, h } from "./dom.js";
import { bytes, counted, duration, percent } from "./format.js";
import { guard } from "./leave.js";
import { problem } from "./notice.js";
import { interrupted, upload } from "./upload.js";

/** A place for the files of one model; `onstart` is called first, `onend` with what they became, or null. */
export function dropZone({ signal, onstart, onend }) {
  const id = freshId("files");
  const input = h("input", { type: "file", id, multiple: true, class: "unseen" });
  const label = h("label", { for: id, class: "dropzone" }, h("strong", null, "Drop a model's files here"), h("span", { class: "hint" }, "or choose them: .safetensors with its shards and config, .pt, .pt2"));
  const work = h("div");
  const waiting = h("div");
  const place = { work, waiting, signal, onstart, onend, stop: null };
  const take = (files) => files.length > 0 && send([...files], place);
  input.addEventListener("change", () => { take(input.files); input.value = ""; });
  for (const type of ["dragenter", "dragover"]) label.addEventListener(type, (event) => { event.preventDefault(); label.classList.add("over"); });
  for (const type of ["dragleave", "drop"]) label.addEventListener(type, () => label.classList.remove("over"));
  label.addEventListener("drop", (event) => { event.preventDefault(); take(event.dataTransfer.files); });
  drawInterrupted(waiting, signal);
  return h("div", { class: "drop" }, input, label, work, waiting);
}

/** Send files; those that are still being sent are of another model, and are not wanted any more. */
async function send(files, place) {
  const { work, waiting, signal } = place;
  place.stop?.abort();
  const stop = new AbortController();
  place.stop = stop;
  signal.addEventListener("abort", () => stop.abort(signal.reason), { once: true });
  place.onstart();
  const bar = h("progress", { max: 1, value: 0, "aria-label": "Upload" });
  const words = h("span", { class: "hint", role: "status" }, "Starting…");
  const names = files.length === 1 ? files[0].name : counted(files.length, "file");
  fill(work, h("div", { class: "progress" }, h("strong", null, names), bar, words, button("Stop", () => stop.abort(), { class: "small", "aria-label": `Stop sending ${names}` })));
  const release = guard(`The upload of ${names}`);
  let [model, failure] = [null, null];
  try {
    model = await upload(files, { signal: stop.signal, advance: telling(bar, words) });
  } catch (error) {
    failure = !stop.signal.aborted && problem(error, ...(isFinal(error) ? [] : [button("Try again", () => send(files, place))]));
  }
  release();
  if (signal.aborted || place.stop !== stop) return;
  fill(work, failure);
  place.onend(model);
  drawInterrupted(waiting, signal);
}

/** Shows how far it is; what was there before does not count for the time left. */
function telling(bar, words) {
  let first = null;
  return (what, done, whole) => {
    const now = performance.now();
    if (first?.what !== what) first = { what, done, at: now };
    const passed = (now - first.at) / 1000;
    const left = passed > 1 && done > first.done ? `, about ${duration(((whole - done) * passed) / (done - first.done))} left` : "";
    bar.value = whole ? done / whole : 1;
    const isLast = what === "sending" && done >= whole;
    words.textContent = isLast ? "The server reads what was sent…" : `${what === "reading" ? "Computing digests" : "Sending"}: ${bytes(done)} of ${bytes(whole)}, ${percent(done, whole)}${left}`;
  };
}

/** Uploads that broke off, with what to do about them. */
async function drawInterrupted(place, signal) {
  const found = await interrupted(signal).catch(() => []);
  if (signal.aborted) return;
  fill(place, found.length > 0 && h("details", { class: "interrupted" }, h("summary", null, `${counted(found.length, "upload")} broke off`),
    h("p", { class: "hint" }, "Drop the same files again: only what is missing is sent."),
    h("ul", null, found.map((each) => h("li", null, `${each.name}${each.file_count > 1 ? ` and ${counted(each.file_count - 1, "file")} more` : ""}, ${bytes(each.size_bytes)} `,
      button("Give up", () => giveUp(each, place, signal), { class: "link", "aria-label": `Give up the upload of ${each.name}` }))))));
}

async function giveUp(each, place, signal) {
  try {
    await ask(`/v1/uploads/${each.id}`, { method: "DELETE", signal });
    drawInterrupted(place, signal);
  } catch (error) {
    place.append(problem(error));
  }
}
