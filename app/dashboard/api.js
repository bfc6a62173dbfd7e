// A client of the public API: authorization, errors, and event streams that reconnect.

const KEY = "palettery-key";
const POLL_EVERY_MS = 1_000;
const MAX_WAIT_MS = 10_000;

/** Dispatches `away`, `back`, `refused` (a key is needed) and `key` (the key has changed). */
export const connection = new EventTarget();

let isAway = false;
let memoryKey = "";

/** An error response of the server. */
export class ApiError extends Error {
  constructor(problem) {
    super(problem.detail || problem.title || `the server responded with ${problem.status}`);
    Object.assign(this, { status: problem.status, code: problem.code, title: problem.title, errors: problem.errors ?? [] });
  }
}

/** The server did not respond. */
export class Unavailable extends Error {
  constructor() {
    super("The server does not respond. This page reconnects automatically.");
  }
}

/** The current key, stored in this tab only. */
export function key() {
  try {
    return sessionStorage.getItem(KEY) ?? "";
  } catch {
    return memoryKey;
  }
}

/** Change or remove the key. */
export function useKey(secret) {
  memoryKey = secret;
  try {
    if (secret) sessionStorage.setItem(KEY, secret);
    else sessionStorage.removeItem(KEY);
  } catch {
    // Storage is disabled: the key is kept until the page is closed.
  }
  connection.dispatchEvent(new Event("key"));
}

/** The authorization header, if there is a key. */
export function authorization(secret = key()) {
  return secret ? { Authorization: `Bearer ${secret}` } : {};
}

/** A URL relative to the page: a proxy may serve both below a path. */
export function at(path) {
  return path.replace(/^\/(?!\/)/, "");
}

/** Whether a retry cannot resolve an error. */
export function isFinal(error) {
  return error instanceof ApiError && [400, 413, 415, 422].includes(error.status);
}

/** Send a request; throw an error response. */
export async function request(path, { method = "GET", json, body, headers = {}, signal, secret } = {}) {
  const sent = { Accept: "application/json", ...authorization(secret), ...headers };
  if (json !== undefined) sent["Content-Type"] = "application/json";
  let answer;
  try {
    answer = await fetch(at(path), { method, headers: sent, body: json === undefined ? body : JSON.stringify(json), signal, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    noteUnavailable();
    throw new Unavailable();
  }
  if (answer.ok) return answer;
  throw await refusal(answer, secret !== undefined);
}

/** Send a request, and parse the JSON response. */
export async function fetchJson(path, options) {
  const answer = await request(path, options);
  if (answer.status === 204) return null;
  try {
    return await answer.json();
  } catch (error) {
    if (error.name === "AbortError" || error instanceof SyntaxError) throw error;
    noteUnavailable();
    throw new Unavailable();
  }
}

/** The error of a response; on 401, the user is asked for a key. */
export async function refusal(answer, isTrial = false) {
  const problem = await answer.json().catch(() => ({}));
  const error = new ApiError({ title: answer.statusText, ...problem, status: answer.status });
  if (answer.status === 401 && !isTrial) connection.dispatchEvent(new CustomEvent("refused", { detail: error }));
  return error;
}

/** Note that the server is unavailable, and poll until it is back. */
export function noteUnavailable() {
  if (isAway) return;
  isAway = true;
  connection.dispatchEvent(new Event("away"));
  const look = async () => {
    const answer = await fetch(at("/livez"), { cache: "no-store" }).catch(() => null);
    if (!answer?.ok) return void setTimeout(look, POLL_EVERY_MS);
    isAway = false;
    connection.dispatchEvent(new Event("back"));
  };
  setTimeout(look, POLL_EVERY_MS);
}

/** Resolves after a time, or when `signal` aborts. */
export function pause(ms, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => { clearTimeout(timer); resolve(); }, { once: true });
  });
}

/** Read an event stream, resuming after lost connections, until 204 or `signal` aborts. */
export async function follow(path, { signal, onevent }) {
  let last = null;
  let wait = POLL_EVERY_MS;
  while (!signal.aborted) {
    try {
      const headers = { Accept: "text/event-stream", ...(last === null ? {} : { "Last-Event-ID": last }) };
      const answer = await request(path, { headers, signal });
      if (answer.status === 204) return;
      wait = POLL_EVERY_MS;
      for await (const event of parseEvents(answer.body)) {
        if (event.id !== null) last = event.id;
        if (event.data && !signal.aborted) onevent(event.type, JSON.parse(event.data));
      }
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof ApiError && error.status < 500 && error.status !== 429) throw error;
      if (!(error instanceof ApiError)) noteUnavailable();
    }
    await pause(wait, signal);
    wait = Math.min(wait * 2, MAX_WAIT_MS);
    if (isAway) await back(signal);
  }
}

/** Resolves once the server is available again. */
function back(signal) {
  return new Promise((resolve) => {
    if (!isAway || signal.aborted) return resolve();
    connection.addEventListener("back", resolve, { once: true, signal });
    signal.addEventListener("abort", resolve, { once: true });
  });
}

/** Parse server-sent events. Source: the HTML standard, server-sent events. */
async function* parseEvents(body) {
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

/** All items of a paginated list, up to a maximum. */
export async function fetchAll(path, most, signal) {
  const items = [];
  let cursor = null;
  do {
    const page = await fetchJson(`${path}?limit=100${cursor ? `&cursor=${encodeURIComponent(cursor)}` : ""}`, { signal });
    items.push(...page.items);
    cursor = page.next_cursor;
  } while (cursor && items.length < most);
  return items;
}
