// The dialog that asks for an API key.

import { fetchJson, key, useKey } from "./api.js";
import { button, field, fill, h } from "./dom.js";
import { problem } from "./notice.js";

let open = null;

/** Ask for a key; resolves once one is accepted or the dialog is closed. */
export function askForKey(why) {
  open ??= showDialog(why).finally(() => { open = null; });
  return open;
}

function showDialog(why) {
  return new Promise((resolve) => {
    const status = h("div", null, why && problem(why));
    const input = h("input", { type: "password", autocomplete: "off", spellcheck: "false", required: true, autofocus: true });
    const form = h("form", { onsubmit: (event) => { event.preventDefault(); take(input, status, dialog); } },
      field("API key", input, "Stored in this tab only, until it is closed."),
      status,
      h("div", { class: "row end" }, button("Not now", () => dialog.close()), h("button", { class: "primary" }, "Use this key")));
    const dialog = h("dialog", { class: "dialog", "aria-labelledby": "key-title", onclose: () => { dialog.remove(); resolve(); } },
      h("h2", { id: "key-title" }, "This server requires a key"), form);
    document.body.append(dialog);
    dialog.showModal();
  });
}

async function take(input, status, dialog) {
  const secret = input.value.trim();
  if (!/^[\x21-\x7e]+$/.test(secret)) return void fill(status, problem({ message: "A key has no spaces and only ASCII characters; copy it exactly as shown." }));
  try {
    await fetchJson("/v1/me", { secret });
    useKey(secret);
    dialog.close();
  } catch (error) {
    fill(status, problem(error));
    input.select();
  }
}

/** The key button in the page header. */
export function keyButton() {
  const element = h("div");
  let isWanted = false;
  const draw = () => fill(element, key()
    ? button("Forget key", () => useKey(""), { class: "small", title: "This tab uses an API key" })
    : isWanted && button("Enter key", () => askForKey(), { class: "small" }));
  draw();
  return { element, draw, want() { isWanted = true; draw(); } };
}
