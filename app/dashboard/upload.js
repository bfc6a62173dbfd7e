// Resumable uploads: files in parts, several at a time, each with its digest.

import { fetchAll, ApiError, fetchJson, at, authorization, Unavailable, isFinal, noteUnavailable, pause, refusal } from "./api.js";
import { Sha256 } from "./sha256.js";

const LEAST_PART_BYTES = 8 << 20;
const MOST_PARTS = 9_000;
const CONCURRENT_PARTS = 4;
const ATTEMPTS = 8;
const LONGEST_WAIT_MS = 15_000;
const CACHE_KEY = "palettery-digest";

/** Upload files as a model; `advance(stage, done, total)` gets "reading" or "sending", and bytes. */
export async function upload(files, { signal, advance }) {
  const announced = await digests(files, signal, advance);
  const whole = files.reduce((sum, file) => sum + file.size, 0);
  let current = (await unfinished(announced, signal)) ?? (await announce(announced, whole, signal));
  for (let round = 0; ; round += 1) {
    await send(current, files, announced, whole, signal, advance);
    try {
      return await fetchJson(`/v1/uploads/${current.id}/complete`, { method: "POST", signal });
    } catch (error) {
      const mayBeDamaged = error instanceof ApiError && [409, 422].includes(error.status);
      if (mayBeDamaged) current = await fetchJson(`/v1/uploads/${current.id}`, { signal });
      // Parts that were damaged in transit are requested again by the server.
      if (mayBeDamaged && round === 0 && current.parts.some((part) => !part.is_received)) continue;
      // A rejected upload is deleted, or it would be listed among the interrupted ones.
      if (isFinal(error)) await fetchJson(`/v1/uploads/${current.id}`, { method: "DELETE", signal }).catch(() => {});
      throw error;
    }
  }
}

/** Interrupted uploads, newest first. */
export async function interrupted(signal) {
  return (await fetchAll("/v1/uploads", 300, signal)).filter((each) => each.state === "open");
}

async function digests(files, signal, advance) {
  const whole = files.reduce((sum, file) => sum + file.size, 0);
  const announced = [];
  let before = 0;
  for (const file of files) {
    const sha256 = await digest(file, signal, (done) => advance("reading", before + done, whole));
    before += file.size;
    announced.push({ name: file.name, size_bytes: file.size, sha256 });
  }
  return announced;
}

/** SHA-256 of a file, cached in the tab, so that a retry need not read 20 GB again. */
async function digest(file, signal, advance) {
  const key = `${CACHE_KEY}:${file.name}:${file.size}:${file.lastModified}`;
  const cached = sessionStorage.getItem(key);
  if (cached) return cached;
  const sha256 = await hash(file, signal, advance);
  sessionStorage.setItem(key, sha256);
  return sha256;
}

function hash(file, signal, advance) {
  return new Promise((resolve, reject) => {
    const worker = new Worker("digester.js", { type: "module" });
    const end = (settle, value) => { worker.terminate(); settle(value); };
    signal.addEventListener("abort", () => end(reject, signal.reason), { once: true });
    worker.addEventListener("error", () => end(reject, new Error(`${file.name} could not be read; reload the page`)));
    worker.addEventListener("message", ({ data }) => {
      if (data.done) advance(data.done);
      else if (data.sha256) end(resolve, data.sha256);
      else end(reject, new Error(data.error));
    });
    worker.postMessage(file);
  });
}

/** The unfinished upload of the same files, with its parts, or null. */
async function unfinished(announced, signal) {
  const identity = (files) => JSON.stringify(files.map((file) => [file.name, file.size_bytes, file.sha256]).sort());
  const wanted = identity(announced);
  const size_bytes = announced.reduce((sum, file) => sum + file.size_bytes, 0);
  for (const each of await interrupted(signal)) {
    if (each.file_count !== announced.length || each.size_bytes !== size_bytes) continue;
    const candidate = await fetchJson(`/v1/uploads/${each.id}`, { signal }).catch((error) => {
      if (error instanceof ApiError && [404, 410].includes(error.status)) return null;
      throw error;
    });
    if (candidate && identity(candidate.files) === wanted) return candidate;
  }
  return null;
}

function announce(files, whole, signal) {
  const part_size_bytes = Math.max(LEAST_PART_BYTES, Math.ceil(whole / MOST_PARTS / 1_048_576) * 1_048_576);
  return fetchJson("/v1/uploads", { method: "POST", json: { files, part_size_bytes }, signal });
}

/** Send the missing parts. */
async function send(upload, files, announced, whole, signal, advance) {
  const missing = upload.parts.filter((part) => !part.is_received);
  const sent = new Map();
  const absent = missing.reduce((sum, part) => sum + part.size_bytes, 0);
  const report = () => advance("sending", whole - absent + [...sent.values()].reduce((sum, each) => sum + each, 0), whole);
  const source = (part) => files[announced.findIndex((file) => file.sha256 === upload.files[part.file].sha256)];
  report();
  const next = missing.values();
  const sender = async () => {
    for (const part of next) {
      const bytes = source(part).slice(part.offset, part.offset + part.size_bytes);
      await sendPart(part, bytes, signal, (done) => { sent.set(part.number, done); report(); });
    }
  };
  await Promise.all(Array.from({ length: CONCURRENT_PARTS }, sender));
}

/** Send a part, with retries while the server or the network is unavailable. */
async function sendPart(part, bytes, signal, advance) {
  const digest = await base64Digest(new Uint8Array(await bytes.arrayBuffer()));
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await put(part.url, bytes, { ...authorization(), "Content-Digest": `sha-256=:${digest}:` }, signal, advance);
    } catch (error) {
      const mayPass = error instanceof Unavailable || (error instanceof ApiError && [408, 429, 500, 502, 503, 504].includes(error.status));
      if (!mayPass || attempt === ATTEMPTS || signal.aborted) throw error;
      advance(0);
      await pause(Math.min(2 ** attempt * 250, LONGEST_WAIT_MS), signal);
    }
  }
}

async function base64Digest(bytes) {
  const digest = crypto.subtle ? new Uint8Array(await crypto.subtle.digest("SHA-256", bytes)) : new Sha256().update(bytes).digest();
  return btoa(String.fromCharCode(...digest));
}

/** PUT with progress events, which fetch does not have. */
function put(url, bytes, headers, signal, advance) {
  return new Promise((resolve, reject) => {
    const sending = new XMLHttpRequest();
    sending.open("PUT", at(url));
    for (const [name, value] of Object.entries(headers)) sending.setRequestHeader(name, value);
    sending.upload.addEventListener("progress", (event) => advance(event.loaded));
    sending.addEventListener("error", () => { noteUnavailable(); reject(new Unavailable()); });
    sending.addEventListener("abort", () => reject(signal.reason));
    sending.addEventListener("load", async () => {
      if (sending.status < 300) {
        advance(bytes.size);
        resolve();
      } else reject(await refusal(new Response(sending.response, { status: sending.status, statusText: sending.statusText })));
    });
    signal.addEventListener("abort", () => sending.abort(), { once: true });
    sending.send(bytes);
  });
}
