// Charts drawn by plotly.js; each has a table with the same numbers, and a CSV download.

import { button, fill, h } from "./dom.js";
import { table } from "./table.js";

const PLOTLY = "assets/plotly.min.js";
const CONFIG = { displayModeBar: false, responsive: true, displaylogo: false, doubleClick: "reset", showTips: false };
const dark = matchMedia("(prefers-color-scheme: dark)");

let loaded = null;

/** Load plotly.js when the first chart is drawn. */
function plotly() {
  if (window.Plotly) return Promise.resolve(window.Plotly);
  loaded ??= new Promise((resolve, reject) => {
    const script = h("script", { src: PLOTLY });
    script.addEventListener("load", () => resolve(window.Plotly));
    script.addEventListener("error", () => {
      loaded = null;
      script.remove();
      reject(new Error("The charts could not be loaded; the tables have the same numbers."));
    });
    document.head.append(script);
  });
  return loaded;
}

/** Preload plotly.js while other requests are pending. */
export function expectCharts() {
  if (!window.Plotly && !document.querySelector("link[as=script]")) document.head.append(h("link", { rel: "preload", as: "script", href: PLOTLY }));
}

/** Escape text for plotly.js, which interprets some markup in labels. */
export function plain(text) {
  return String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

/** Current colours of the style sheet. */
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

/** Colours of the compared jobs, whose marks also have different shapes. */
export function series(colours) {
  return [colours.accent, colours.warm, colours.green, colours.violet, colours.sky];
}
export const MARKS = ["circle", "square", "diamond", "triangle-up", "cross"];

function axis(colours, options = {}) {
  const { title, ...rest } = options;
  return {
    gridcolor: colours.line, zerolinecolor: colours.line, linecolor: colours.line, tickcolor: colours.line, automargin: true,
    fixedrange: true, title: title ? { text: title, font: { size: 12, color: colours.muted }, standoff: 8 } : undefined, ...rest,
  };
}

/** A layout in the page's colours; `xaxis`, `yaxis` and so on override it. */
export function layout(colours, options = {}) {
  const result = {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", margin: { l: 48, r: 12, t: 8, b: 40 },
    font: { family: "system-ui, sans-serif", size: 12, color: colours.ink }, showlegend: false, bargap: 0.1, dragmode: false,
    hoverlabel: { bgcolor: colours.surface, bordercolor: colours.line, font: { color: colours.ink, size: 12 }, align: "left", namelength: -1 },
    ...options,
  };
  for (const name of ["xaxis", "yaxis", "xaxis2", "yaxis2"]) if (options[name] || !name.endsWith("2")) result[name] = axis(colours, options[name]);
  return result;
}

/**
 * A chart with its title and its table.
 *
 * `draw(colours)` returns plotly's `{data, layout}`; `columns` and `rows` are for the table; `onclick`
 * gets the clicked point; `controls` are inputs that change the chart.
 */
export function chart({ title, note, controls, height = 280, draw, columns, rows, name, search, onclick }) {
  const place = h("div", { class: "plot", role: "img", "aria-label": `${title}. The table below has the same numbers.`, style: { height: `${height}px` } });
  const status = h("div");
  const numbers = columns && h("details", { class: "numbers" }, h("summary", null, "Numbers"));
  numbers?.addEventListener("toggle", () => {
    if (numbers.open && numbers.children.length === 1) numbers.append(table(columns, rows, { name, search, caption: title }).element);
  });
  const element = h("figure", { class: "chart" }, h("figcaption", null, h("h3", null, title), note && h("p", { class: "hint" }, note)), controls, place, status, numbers);
  const paint = async () => {
    try {
      const library = await plotly();
      // In a task of its own, so that the page stays responsive.
      await new Promise((resolve) => setTimeout(resolve));
      if (!place.isConnected) return;
      const figure = draw(theme());
      await library.react(place, figure.data, figure.layout, CONFIG);
      if (!place.dataset.drawn) listen(library, place, onclick);
      place.dataset.drawn = "yes";
    } catch (error) {
      fill(status, h("p", { class: "hint", role: "alert" }, error.message, " ", button("Try again", paint, { class: "link" })));
      return;
    }
    fill(status);
  };
  whenVisible(place, paint);
  return { element, paint };
}

function listen(library, place, onclick) {
  if (onclick) place.on("plotly_click", (event) => event.points[0] && onclick(event.points[0]));
  // plotly's own zoom into a treemap would need all descendants drawn beforehand.
  place.on("plotly_treemapclick", (event) => { onclick?.(event.points[0]); return false; });
}

/** Draw when scrolled near the window, and again when the colour scheme changes. */
function whenVisible(place, paint) {
  const watch = new IntersectionObserver((seen) => {
    if (!seen.some((each) => each.isIntersecting)) return;
    watch.disconnect();
    paint();
    const again = () => (place.isConnected ? paint() : dark.removeEventListener("change", again));
    dark.addEventListener("change", again);
  }, { rootMargin: "200px" });
  watch.observe(place);
}
