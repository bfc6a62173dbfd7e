// Formatting of numbers, times and specs.

const WHOLE = new Intl.NumberFormat("en-US");
const MOMENT = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "medium" });
const UNITS = ["bytes", "kB", "MB", "GB", "TB", "PB"];

/** A size with three significant digits. */
export function bytes(count) {
  if (count === null || count === undefined) return "–";
  let value = count;
  let unit = 0;
  while (value >= 999.5 && unit < UNITS.length - 1) {
    value /= 1000;
    unit += 1;
  }
  if (unit === 0) return `${count} ${count === 1 ? "byte" : "bytes"}`;
  return `${value.toFixed(value < 9.995 ? 2 : value < 99.95 ? 1 : 0)} ${UNITS[unit]}`;
}

/** An integer with thousands separators. */
export function count(value) {
  return value === null || value === undefined ? "–" : WHOLE.format(value);
}

/** `1 tensor`, `2 tensors`. */
export function counted(value, noun) {
  return `${count(value)} ${noun}${value === 1 ? "" : "s"}`;
}

/** A number with a fixed number of decimals. */
export function fixed(value, digits = 2) {
  return value === null || value === undefined ? "–" : value.toFixed(digits);
}

/** A small or large number in short form. */
export function short(value) {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  return size >= 0.01 && size < 10_000 ? String(Number(value.toPrecision(4))) : value.toExponential(2);
}

/** Decibels; without a value, "exact". */
export function decibels(value) {
  return value === null || value === undefined ? "exact" : `${value.toFixed(1)} dB`;
}

/** How many times smaller. */
export function ratio(before, after) {
  return before && after ? `${(before / after).toFixed(before / after < 10 ? 2 : 1)}×` : "–";
}

/** A percentage. */
export function percent(part, whole) {
  if (!whole) return "0 %";
  const value = (part / whole) * 100;
  if (value > 0 && value < 0.1) return "< 0.1 %";
  return `${value.toFixed(value < 10 && value > 0 ? 1 : 0)} %`;
}

/** A duration. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "–";
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.round((whole % 3600) / 60)} min`;
}

/** Seconds between two timestamps. */
export function between(from, to) {
  return from && to ? (Date.parse(to) - Date.parse(from)) / 1000 : null;
}

/** A timestamp in the local time zone. */
export function moment(at) {
  return at ? MOMENT.format(new Date(at)) : "–";
}

/** A timestamp relative to now. */
export function ago(at, now = Date.now()) {
  const seconds = Math.max(0, (now - Date.parse(at)) / 1000);
  if (seconds < 60) return "just now";
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h ago`;
  return new Date(at).toLocaleDateString("en-GB", { day: "numeric", month: "short", year: "numeric" });
}

/** The distinguishing part of an id: job ids begin with the time. */
export function brief(id) {
  return id.length === 36 ? id.slice(-8) : id.slice(0, 8);
}

/** `[384, 1536]` as `384 × 1536`. */
export function shape(sizes) {
  return sizes.length ? sizes.join(" × ") : "scalar";
}

/** A spec in one line. */
export function spec(options) {
  if (!options) return "–";
  const { n_bits, granularity, cluster_dim, enable_per_channel_scale, lut_qspec, sparsity_detection_threshold: threshold } = options;
  const parts = [`${n_bits} bit${n_bits === 1 ? "" : "s"}`];
  if (granularity.type === "per_tensor") parts.push("one palette");
  else parts.push(`one palette per ${counted(granularity.group_size, "channel")}${granularity.axis === null ? "" : ` of axis ${granularity.axis}`}`);
  if (cluster_dim > 1) parts.push(`vectors of ${cluster_dim}`);
  if (enable_per_channel_scale) parts.push("channel scales");
  if (lut_qspec) parts.push(`${lut_qspec.dtype ?? "quantized"} entries`);
  if (Number.isFinite(threshold)) parts.push(`sparse where at least ${threshold} are zeros`);
  return parts.join(", ");
}

/** A spec in short form, for tables. */
export function specBrief(options) {
  if (!options) return "–";
  const { n_bits, granularity, cluster_dim, enable_per_channel_scale, lut_qspec, sparsity_detection_threshold: threshold } = options;
  const grouped = granularity.type === "per_tensor" ? "tensor" : `${granularity.group_size} ch${granularity.axis === null ? "" : ` ax ${granularity.axis}`}`;
  return [`${n_bits} bit`, grouped, cluster_dim > 1 && `dim ${cluster_dim}`, enable_per_channel_scale && "scaled", lut_qspec?.dtype, Number.isFinite(threshold) && "sparse"].filter(Boolean).join(" · ");
}

/** A cell of a CSV file, escaped so that spreadsheets do not run it as a formula. */
function cell(value) {
  const text = value === null || value === undefined ? "" : String(value);
  const safe = typeof value === "string" && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
  return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

/** A CSV file. */
export function csv(head, rows) {
  return [head, ...rows].map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n";
}

/** Whether two jobs have byte-identical models; older jobs, without a digest, are compared by id or name. */
export function isSameModel(one, other) {
  if (one.model_sha256 && other.model_sha256) return one.model_sha256 === other.model_sha256;
  if (one.model_id && other.model_id) return one.model_id === other.model_id;
  return one.model_name === other.model_name && one.size_before_bytes === other.size_before_bytes;
}
