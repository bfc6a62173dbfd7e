// Downloads. A browser sends no Authorization header with a link, and a key in an address would end up
// in logs: with a key, the page fetches the bytes itself. Where the browser lets it, they go to the disk
// as they come; elsewhere through memory, up to a size; above that, the command line is the way.

import { at, authorization, Away, key, noteAway, refusal } from "./api.js";
import { button, fill, h, save } from "./dom.js";
import { bytes, percent } from "./format.js";
import { problem } from "./notice.js";

const MOST_IN_MEMORY = 1_000_000_000;

/** Something to download, with its size and its digest if they are known. */
export function download({ path, name, label, size, sha256, command }) {
  const shown = h("span", { class: "hint" }, size !== undefined && bytes(size));
  const said = h("div");
  const control = key()
    ? button(label, (event) => fetched({ path, name, size, command, shown, said, pressed: event.currentTarget }), { class: "link" })
    : h("a", { href: at(path), download: name }, label);
  return h("li", null, control, " ", shown, sha256 && h("code", { class: "digest", title: "SHA-256" }, sha256), said);
}

async function fetched({ path, name, size, command, shown, said, pressed }) {
  pressed.disabled = true;
  fill(said);
  try {
    const file = window.showSaveFilePicker && (size ?? 0) > 10_000_000 ? await window.showSaveFilePicker({ suggestedName: name }) : null;
    if (!file && size > MOST_IN_MEMORY) throw new Error(`This browser cannot store ${bytes(size)} while they come in. Use the command line: ${command ?? `curl -H "Authorization: Bearer $PALETTERY_KEY" -o ${name} ${new URL(at(path), document.baseURI)}`}`);
    const answer = await fetch(at(path), { headers: authorization() }).catch(() => { noteAway(); throw new Away(); });
    if (!answer.ok) throw await refusal(answer);
    await (file ? streamed(answer, file, size, shown) : answer.blob().then((blob) => save(blob, name)));
  } catch (error) {
    if (error.name !== "AbortError") fill(said, problem(error));
  }
  pressed.disabled = false;
  shown.textContent = size === undefined ? "" : bytes(size);
}

async function streamed(answer, file, size, shown) {
  let done = 0;
  const counting = new TransformStream({
    transform(chunk, sink) {
      done += chunk.byteLength;
      shown.textContent = percent(done, size);
      sink.enqueue(chunk);
    },
  });
  await answer.body.pipeThrough(counting).pipeTo(await file.createWritable());
}
