// A web worker that hashes one file, so that the page stays responsive.

import { hex, Sha256 } from "./sha256.js";

const REPORT_EVERY_BYTES = 4_000_000;

addEventListener("message", async ({ data: file }) => {
  const hash = new Sha256();
  let [done, reported] = [0, 0];
  try {
    const reader = file.stream().getReader();
    for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
      hash.update(piece.value);
      done += piece.value.length;
      if (done - reported < REPORT_EVERY_BYTES) continue;
      reported = done;
      postMessage({ done });
    }
    postMessage({ sha256: hex(hash.digest()) });
  } catch (error) {
    postMessage({ error: `${file.name} cannot be read: ${error.message}` });
  }
});
