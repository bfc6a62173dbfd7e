// The public API: a key if there is one, problems as errors, streams that come back.

const KEY = "palettery-key";
const LOOK_EVERY_MS = 1_000;
const LONGEST_WAIT_MS = 10_000;

/** Tells of `away`, `back`, `refused` (a key is needed) and `key` (another one is used). */
export const told = new EventTarget();

let isAway = false;
let notedKey = "";

/** A problem that the server told of, in its words. */
export class ApiError extends Error {
  constructor(problem) {
    super(problem.detail || problem.title || `the server answered ${problem.status}`);
    Object.assign(this, { status: problem.status, code: problem.code, title: problem.title, errors: problem.errors ?? [] });
  }
}

/** The server did not answer at all. */
export class Away extends Error {
  constructor() {
    super("The server does not answer. This page tries again until it does.");
  }
}

/** The key in use; it lives as long as this tab. */
export function key() {
  try {
    return sessionStorage.getItem(KEY) ?? "";
  } catch {
    return notedKey;
  }
}

/** Use another key, or none. */
export function useKey(secret) {
  notedKey = secret;
  try {
    if (secret) sessionStorage.setItem(KEY, secret);
    else sessionStorage.removeItem(KEY);
  } catch {
    // Storage is switched off: the key lives as long as the page.
  }
  told.dispatchEvent(new Event("key"));
}

/** Headers that say who asks. */
export function authorization(secret = key()) {
  return secret ? { Authorization: `Bearer ${secret}` } : {};
}

/** An address of the server, relative to the page: a proxy may serve both below a path. */
export function at(path) {
  return path.replace(/^\/(?!\/)/, "");
}

/** Whether an error stays however often the same is asked. */
export function isFinal(error) {
  return error instanceof ApiError && [400, 413, 415, 422].includes(error.status);
}

/** An answer that is no error. */
export async function request(path, { method = "GET", json, body, headers = {}, signal, secret } = {}) {
  const sent = { Accept: "application/json", ...authorization(secret), ...headers };
  if (json !== undefined) sent["Content-Type"] = "application/json";
  let answer;
  try {
    answer = await fetch(at(path), { method, headers: sent, body: json === undefined ? body : JSON.stringify(json), signal, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    noteAway();
    throw new Away();
  }
  if (answer.ok) return answer;
  throw await refusal(answer, secret !== undefined);
}

/** What was answered, as JSON. */
export async function ask(path, options) {
  const answer = await request(path, options);
  if (answer.status === 204) return null;
  try {
    return await answer.json();
  } catch (error) {
    if (error.name === "AbortError" || error instanceof SyntaxError) throw error;
    noteAway();
    throw new Away();
  }
}

/** The error in an answer; a key that is missing or void is asked for. */
export async function refusal(answer, isTrial = false) {
  const problem = await answer.json().catch(() => ({}));
  const error = new ApiError({ title: answer.statusText, ...problem, status: answer.status });
  if (answer.status === 401 && !isTrial) told.dispatchEvent(new CustomEvent("refused", { detail: error }));
  return error;
}

/** Note that the server is gone, and look until it is back. */
export function noteAway() {
  if (isAway) return;
  isAway = true;
  told.dispatchEvent(new Event("away"));
  const look = async () => {
    const answer = await fetch(at("/livez"), { cache: "no-store" }).catch(() => null);
    if (!answer?.ok) return void setTimeout(look, LOOK_EVERY_MS);
    isAway = false;
    told.dispatchEvent(new Event("back"));
  };
  setTimeout(look, LOOK_EVERY_MS);
}

/** Resolves after a time, or at once when the signal says stop. */
export function pause(ms, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => { clearTimeout(timer); resolve(); }, { once: true });
  });
}

/** Events of a stream, for as long as it takes: it goes on where it broke off, until 204 or `signal`. */
export async function follow(path, { signal, onevent }) {
  let last = null;
  let wait = LOOK_EVERY_MS;
  while (!signal.aborted) {
    try {
      const headers = { Accept: "text/event-stream", ...(last === null ? {} : { "Last-Event-ID": last }) };
      const answer = await request(path, { headers, signal });
      if (answer.status === 204) return;
      wait = LOOK_EVERY_MS;
      for await (const event of parsed(answer.body)) {
        if (event.id !== null) last = event.id;
        if (event.data && !signal.aborted) onevent(event.type, JSON.parse(event.data));
      }
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof ApiError && error.status < 500 && error.status !== 429) throw error;
      if (!(error instanceof ApiError)) noteAway();
    }
    await pause(wait, signal);
    wait = Math.min(wait * 2, LONGEST_WAIT_MS);
    if (isAway) await back(signal);
  }
}

/** Resolves once the server is there again. */
function back(signal) {
  return new Promise((resolve) => {
    if (!isAway || signal.aborted) return resolve();
    told.addEventListener("back", resolve, { once: true, signal });
    signal.addEventListener("abort", resolve, { once: true });
  });
}

/** Server-sent events of a body, as HTML's standard says how to read them. */
async function* parsed(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  let event = { type: "message", data: "", id: null };
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      text += value;
      const lines = text.split(/\r\n|\n|\r(?!$)/);
      text = lines.pop();
      for (const line of lines) {
        if (line === "") {
          yield event;
          event = { type: "message", data: "", id: null };
        } else take(event, line);
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function take(event, line) {
  const [, name, value] = /^([^:]*)(?:: ?(.*))?$/.exec(line) ?? [];
  if (name === "event") event.type = value;
  else if (name === "data") event.data += (event.data && "\n") + (value ?? "");
  else if (name === "id") event.id = value ?? "";
}

/** Every item of a list, page by page, up to a number. */
export async function all(path, most, signal) {
  const items = [];
  let cursor = null;
  do {
    const page = await ask(`${path}?limit=100${cursor ? `&cursor=${encodeURIComponent(cursor)}` : ""}`, { signal });
    items.push(...page.items);
    cursor = page.next_cursor;
  } while (cursor && items.length < most);
  return items;
}
