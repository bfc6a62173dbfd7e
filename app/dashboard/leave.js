// Confirmation before leaving a view whose work would be lost.

import { confirmed } from "./dom.js";

const running = new Set();

/** Ask before leaving the page until the returned function is called. */
export function guard(what) {
  const work = { what };
  running.add(work);
  return () => running.delete(work);
}

/** Whether work would be lost. */
export function isBusy() {
  return running.size > 0;
}

/** Ask whether to leave; if so, stop guarding. */
export async function mayLeave() {
  const [work] = running;
  if (work && !(await confirmed("Leave this page?", `${work.what} stops. Parts already sent are kept for a while: drop the same files again to resume.`, "Leave"))) return false;
  running.clear();
  return true;
}

addEventListener("beforeunload", (event) => {
  if (isBusy()) event.preventDefault();
});
