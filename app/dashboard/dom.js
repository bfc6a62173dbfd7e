// Elements are built from properties and text nodes only: untrusted text is never parsed as markup.

const PROPERTIES = new Set(["value", "checked", "disabled", "selected", "open", "indeterminate"]);

/** An element; `on*` are listeners, `style` goes through the CSSOM, children are nodes or text. */
export function h(tag, props, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === undefined || value === null || (value === false && !PROPERTIES.has(name))) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, each] of Object.entries(value)) element.style.setProperty(key, each);
    else if (PROPERTIES.has(name)) element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...present(children));
  return element;
}

/** Flatten children, dropping empty ones. */
function present(children) {
  return children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);
}

/** Replace the children of an element. */
export function fill(element, ...children) {
  element.replaceChildren(...present(children));
  return element;
}

let idCount = 0;

/** A unique element id. */
export function freshId(stem) {
  idCount += 1;
  return `${stem}-${idCount}`;
}

/** A button. */
export function button(label, onclick, props) {
  return h("button", { type: "button", onclick, ...props }, label);
}

/** A form control with its label and an optional hint. */
export function field(label, control, hint) {
  control.id ||= freshId("field");
  const note = hint && h("p", { class: "hint", id: `${control.id}-hint` }, hint);
  if (note) control.setAttribute("aria-describedby", note.id);
  return h("div", { class: "field" }, h("label", { for: control.id }, label), control, note);
}

/** A checkbox with its label. */
export function checkbox(label, props, hint) {
  const id = freshId("tick");
  return h(
    "div",
    { class: "tick" },
    h("input", { type: "checkbox", id, ...props }),
    h("label", { for: id }, label, hint && h("span", { class: "hint" }, hint)),
  );
}

/** Ask for confirmation in a dialog; resolves to whether it was given. */
export function confirmed(question, detail, verb) {
  return new Promise((resolve) => {
    const id = freshId("question");
    const dialog = h(
      "dialog",
      { class: "dialog", "aria-labelledby": id, onclose: () => { resolve(dialog.returnValue === "yes"); dialog.remove(); } },
      h("h2", { id }, question),
      h("p", null, detail),
      h(
        "div",
        { class: "row end" },
        button("Go back", () => dialog.close("no"), { autofocus: true }),
        button(verb, () => dialog.close("yes"), { class: "danger" }),
      ),
    );
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** Save bytes as a download. */
export function save(blob, name) {
  const url = URL.createObjectURL(blob);
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}
