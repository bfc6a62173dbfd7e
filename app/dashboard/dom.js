// Elements are made of properties and text nodes alone: nothing that came from outside is ever markup.

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

/** Children that are to be shown, as one flat list. */
function present(children) {
  return children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);
}

/** Have an element hold these children and no others. */
export function fill(element, ...children) {
  element.replaceChildren(...present(children));
  return element;
}

let made = 0;

/** An id that no other element has. */
export function freshId(stem) {
  made += 1;
  return `${stem}-${made}`;
}

/** A button that does something. */
export function button(label, onclick, props) {
  return h("button", { type: "button", onclick, ...props }, label);
}

/** A control with its label in front, and maybe a hint behind. */
export function field(label, control, hint) {
  control.id ||= freshId("field");
  const told = hint && h("p", { class: "hint", id: `${control.id}-hint` }, hint);
  if (told) control.setAttribute("aria-describedby", told.id);
  return h("div", { class: "field" }, h("label", { for: control.id }, label), control, told);
}

/** A box to tick, with its label behind. */
export function tick(label, props, hint) {
  const id = freshId("tick");
  return h(
    "div",
    { class: "tick" },
    h("input", { type: "checkbox", id, ...props }),
    h("label", { for: id }, label, hint && h("span", { class: "hint" }, hint)),
  );
}

/** Ask before something that cannot be undone; resolves to whether it was confirmed. */
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
        button("Keep it", () => dialog.close("no"), { autofocus: true }),
        button(verb, () => dialog.close("yes"), { class: "danger" }),
      ),
    );
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** Have the browser save bytes under a name. */
export function save(blob, name) {
  const url = URL.createObjectURL(blob);
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}
