// Downloads. A browser sends no Authorization header with a link, and a key in a URL would end up in
// logs: with a key, the page fetches the bytes itself. They are streamed to disk if the browser supports
// it, else collected in memory up to a limit; beyond that, the command line is suggested.

import { at, authorization, Unavailable, key, noteUnavailable, refusal } from "./api.js";
import { button, fill, h, save } from "./dom.js";
import { bytes, percent } from "./format.js";
import { problem } from "./notice.js";

const MOST_IN_MEMORY = 1_000_000_000;

/** A download link, with size and digest if known. */
export function download({ path, name, label, size, sha256, command }) {
  const sizeLabel = h("span", { class: "hint" }, size !== undefined && bytes(size));
  const status = h("div");
  const control = key()
    ? button(label, (event) => fetchFile({ path, name, size, command, sizeLabel, status, pressed: event.currentTarget }), { class: "link" })
    : h("a", { href: at(path), download: name }, label);
  return h("li", null, control, " ", sizeLabel, sha256 && h("code", { class: "digest", title: "SHA-256" }, sha256), status);
}

async function fetchFile({ path, name, size, command, sizeLabel, status, pressed }) {
  pressed.disabled = true;
  fill(status);
  try {
    const file = window.showSaveFilePicker && (size ?? 0) > 10_000_000 ? await window.showSaveFilePicker({ suggestedName: name }) : null;
    if (!file && size > MOST_IN_MEMORY) throw new Error(`This browser cannot stream ${bytes(size)} to disk. Use the command line: ${command ?? `curl -H "Authorization: Bearer $PALETTERY_KEY" -o ${name} ${new URL(at(path), document.baseURI)}`}`);
    const answer = await fetch(at(path), { headers: authorization() }).catch(() => { noteUnavailable(); throw new Unavailable(); });
    if (!answer.ok) throw await refusal(answer);
    await (file ? saveStream(answer, file, size, sizeLabel) : answer.blob().then((blob) => save(blob, name)));
  } catch (error) {
    if (error.name !== "AbortError") fill(status, problem(error));
  }
  pressed.disabled = false;
  sizeLabel.textContent = size === undefined ? "" : bytes(size);
}

async function saveStream(answer, file, size, sizeLabel) {
  let done = 0;
  const counting = new TransformStream({
    transform(chunk, sink) {
      done += chunk.byteLength;
      sizeLabel.textContent = percent(done, size);
      sink.enqueue(chunk);
    },
  });
  await answer.body.pipeThrough(counting).pipeTo(await file.createWritable());
}
