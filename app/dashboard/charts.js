// Charts by plotly.js; each has a table with the same numbers, and that has a CSV file.

import { button, fill, h } from "./dom.js";
import { table } from "./table.js";

const PLOTLY = "assets/plotly.min.js";
const CONFIG = { displayModeBar: false, responsive: true, displaylogo: false, doubleClick: "reset", showTips: false };
const dark = matchMedia("(prefers-color-scheme: dark)");

let loaded = null;

/** plotly.js, which is fetched when the first chart is drawn. */
function plotly() {
  if (window.Plotly) return Promise.resolve(window.Plotly);
  loaded ??= new Promise((resolve, reject) => {
    const script = h("script", { src: PLOTLY });
    script.addEventListener("load", () => resolve(window.Plotly));
    script.addEventListener("error", () => {
      loaded = null;
      script.remove();
      reject(new Error("The charts could not be loaded from the server; the tables have the same numbers."));
    });
    document.head.append(script);
  });
  return loaded;
}

/** Have the browser fetch plotly.js while other things are waited for; it is run when it is needed. */
export function expectCharts() {
  if (!window.Plotly && !document.querySelector("link[as=script]")) document.head.append(h("link", { rel: "preload", as: "script", href: PLOTLY }));
}

/** Text that plotly.js shows as it is: it reads some markup in labels. */
export function plain(text) {
  return String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

/** Colours of the style sheet, as they are just now. */
export function theme() {
  const style = getComputedStyle(document.documentElement);
  const names = ["surface", "ink", "muted", "line", "accent", "warm", "kept", "green", "violet", "sky", "on-accent"];
  return Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
}

/** A colour between two of the form `#rgb` or `#rrggbb`. */
export function blend(from, to, part) {
  const parsed = (hex) => (hex.length === 4 ? [...hex.slice(1)].map((digit) => digit + digit) : hex.slice(1).match(/../g)).map((pair) => parseInt(pair, 16));
  const [one, other] = [parsed(from), parsed(to)];
  return `rgb(${one.map((value, at) => Math.round(value + (other[at] - value) * part)).join(",")})`;
}

/** Colours to tell jobs apart by; their marks have different forms, too. */
export function series(colours) {
  return [colours.accent, colours.warm, colours.green, colours.violet, colours.sky];
}
export const MARKS = ["circle", "square", "diamond", "triangle-up", "cross"];

function axis(colours, given = {}) {
  const { title, ...rest } = given;
  return {
    gridcolor: colours.line, zerolinecolor: colours.line, linecolor: colours.line, tickcolor: colours.line, automargin: true,
    fixedrange: true, title: title ? { text: title, font: { size: 12, color: colours.muted }, standoff: 8 } : undefined, ...rest,
  };
}

/** A layout in the page's colours; `xaxis`, `yaxis` and so on may say more. */
export function layout(colours, given = {}) {
  const made = {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", margin: { l: 48, r: 12, t: 8, b: 40 },
    font: { family: "system-ui, sans-serif", size: 12, color: colours.ink }, showlegend: false, bargap: 0.1, dragmode: false,
    hoverlabel: { bgcolor: colours.surface, bordercolor: colours.line, font: { color: colours.ink, size: 12 }, align: "left", namelength: -1 },
    ...given,
  };
  for (const name of ["xaxis", "yaxis", "xaxis2", "yaxis2"]) if (given[name] || !name.endsWith("2")) made[name] = axis(colours, given[name]);
  return made;
}

/**
 * A chart with its title and its table.
 *
 * `draw(colours)` gives plotly's `{data, layout}`; `columns` and `rows` are the table's; `onclick` gets
 * the point that was clicked; `controls` change what is drawn.
 */
export function chart({ title, note, controls, height = 280, draw, columns, rows, name, search, onclick }) {
  const place = h("div", { class: "plot", role: "img", "aria-label": `${title}. The numbers are in the table below.`, style: { height: `${height}px` } });
  const said = h("div");
  const numbers = columns && h("details", { class: "numbers" }, h("summary", null, "Numbers"));
  numbers?.addEventListener("toggle", () => {
    if (numbers.open && numbers.children.length === 1) numbers.append(table(columns, rows, { name, search, caption: title }).element);
  });
  const element = h("figure", { class: "chart" }, h("figcaption", null, h("h3", null, title), note && h("p", { class: "hint" }, note)), controls, place, said, numbers);
  const paint = async () => {
    try {
      const library = await plotly();
      // Each in a task of its own, so that the page answers in between.
      await new Promise((resolve) => setTimeout(resolve));
      if (!place.isConnected) return;
      const made = draw(theme());
      await library.react(place, made.data, made.layout, CONFIG);
      if (!place.dataset.drawn) listen(library, place, onclick);
      place.dataset.drawn = "yes";
    } catch (error) {
      fill(said, h("p", { class: "hint", role: "alert" }, error.message, " ", button("Try again", paint, { class: "link" })));
      return;
    }
    fill(said);
  };
  whenSeen(place, paint);
  return { element, paint };
}

function listen(library, place, onclick) {
  if (onclick) place.on("plotly_click", (event) => event.points[0] && onclick(event.points[0]));
  // Its own way into a treemap would need all that lies below drawn beforehand.
  place.on("plotly_treemapclick", (event) => { onclick?.(event.points[0]); return false; });
}

/** Draw when it comes near the window; again when the colours change. */
function whenSeen(place, paint) {
  const watch = new IntersectionObserver((seen) => {
    if (!seen.some((each) => each.isIntersecting)) return;
    watch.disconnect();
    paint();
    const again = () => (place.isConnected ? paint() : dark.removeEventListener("change", again));
    dark.addEventListener("change", again);
  }, { rootMargin: "200px" });
  watch.observe(place);
}
