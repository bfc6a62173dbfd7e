// The drop zone: files are hashed and uploaded as a model.

import { fetchJson, isFinal } from "./api.js";
import { button, fill, freshId, h } from "./dom.js";
import { bytes, counted, duration, percent } from "./format.js";
import { guard } from "./leave.js";
import { problem } from "./notice.js";
import { interrupted, upload } from "./upload.js";

/** A drop zone for the files of one model; `onend` is called with the model, or null. */
export function dropZone({ signal, onstart, onend }) {
  const id = freshId("files");
  const input = h("input", { type: "file", id, multiple: true, class: "unseen" });
  const label = h("label", { for: id, class: "dropzone" }, h("strong", null, "Drop model files here"), h("span", { class: "hint" }, "or click to choose: .safetensors (with shards and config), .pt, .pt2"));
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

/** Upload files; cancel an upload that is still running. */
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
  fill(work, h("div", { class: "progress" }, h("strong", null, names), bar, words, button("Stop", () => stop.abort(), { class: "small", "aria-label": `Stop the upload of ${names}` })));
  const release = guard(`The upload of ${names}`);
  let [model, failure] = [null, null];
  try {
    model = await upload(files, { signal: stop.signal, advance: showProgress(bar, words) });
  } catch (error) {
    failure = !stop.signal.aborted && problem(error, ...(isFinal(error) ? [] : [button("Try again", () => send(files, place))]));
  }
  release();
  if (signal.aborted || place.stop !== stop) return;
  fill(work, failure);
  place.onend(model);
  drawInterrupted(waiting, signal);
}

/** A function that shows progress; the remaining time ignores parts that were already there. */
function showProgress(bar, words) {
  let first = null;
  return (what, done, whole) => {
    const now = performance.now();
    if (first?.what !== what) first = { what, done, at: now };
    const passed = (now - first.at) / 1000;
    const left = passed > 1 && done > first.done ? `, about ${duration(((whole - done) * passed) / (done - first.done))} left` : "";
    bar.value = whole ? done / whole : 1;
    const isLast = what === "sending" && done >= whole;
    words.textContent = isLast ? "The server is reading the files…" : `${what === "reading" ? "Computing checksums" : "Sending"}: ${bytes(done)} of ${bytes(whole)}, ${percent(done, whole)}${left}`;
  };
}

/** Show interrupted uploads. */
async function drawInterrupted(place, signal) {
  const uploads = await interrupted(signal).catch(() => []);
  if (signal.aborted) return;
  fill(place, uploads.length > 0 && h("details", { class: "interrupted" }, h("summary", null, `${counted(uploads.length, "upload")} interrupted`),
    h("p", { class: "hint" }, "Drop the same files again to resume: only the missing parts are sent."),
    h("ul", null, uploads.map((each) => h("li", null, `${each.name}${each.file_count > 1 ? ` and ${counted(each.file_count - 1, "file")} more` : ""}, ${bytes(each.size_bytes)} `,
      button("Discard", () => discard(each, place, signal), { class: "link", "aria-label": `Discard the upload of ${each.name}` }))))));
}

async function discard(each, place, signal) {
  try {
    await fetchJson(`/v1/uploads/${each.id}`, { method: "DELETE", signal });
    drawInterrupted(place, signal);
  } catch (error) {
    place.append(problem(error));
  }
}
