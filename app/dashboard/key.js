// Asks for a key where the server wants one.

import { ask, key, useKey } from "./api.js";
import { button, field, fill, h } from "./dom.js";
import { problem } from "./notice.js";

let open = null;

/** Ask for a key; resolves once one was taken, or the reader gave up. */
export function askForKey(why) {
  open ??= asked(why).finally(() => { open = null; });
  return open;
}

function asked(why) {
  return new Promise((resolve) => {
    const said = h("div", null, why && problem(why));
    const input = h("input", { type: "password", autocomplete: "off", spellcheck: "false", required: true, autofocus: true });
    const form = h("form", { onsubmit: (event) => { event.preventDefault(); take(input, said, dialog); } },
      field("API key", input, "Kept in this tab alone, until it is closed."),
      said,
      h("div", { class: "row end" }, button("Not now", () => dialog.close()), h("button", { class: "primary" }, "Use this key")));
    const dialog = h("dialog", { class: "dialog", "aria-labelledby": "key-title", onclose: () => { dialog.remove(); resolve(); } },
      h("h2", { id: "key-title" }, "This server asks for a key"), form);
    document.body.append(dialog);
    dialog.showModal();
  });
}

async function take(input, said, dialog) {
  const secret = input.value.trim();
  if (!/^[\x21-\x7e]+$/.test(secret)) return void fill(said, problem({ message: "A key has neither spaces nor letters beyond ASCII; copy it as it was shown." }));
  try {
    await ask("/v1/me", { secret });
    useKey(secret);
    dialog.close();
  } catch (error) {
    fill(said, problem(error));
    input.select();
  }
}

/** What the page's head says about keys. */
export function keyButton() {
  const element = h("div");
  let isWanted = false;
  const draw = () => fill(element, key()
    ? button("Forget key", () => useKey(""), { class: "small", title: "This tab uses an API key" })
    : isWanted && button("Enter key", () => askForKey(), { class: "small" }));
  draw();
  return { element, draw, want() { isWanted = true; draw(); } };
}
