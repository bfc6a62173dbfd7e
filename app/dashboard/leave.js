// Work that leaving its view would end: leaving is asked about first.

import { confirmed } from "./dom.js";

const underWay = new Set();

/** Ask before the page is left until the function is called that this returns. */
export function guard(what) {
  const work = { what };
  underWay.add(work);
  return () => underWay.delete(work);
}

/** Whether there is work to lose. */
export function isBusy() {
  return underWay.size > 0;
}

/** Ask whether to leave; what would be lost is no longer guarded then. */
export async function mayLeave() {
  const [work] = underWay;
  if (work && !(await confirmed("Leave this page?", `${work.what} stops. What has been sent is kept for a while: drop the same files again to go on.`, "Leave"))) return false;
  underWay.clear();
  return true;
}

addEventListener("beforeunload", (event) => {
  if (isBusy()) event.preventDefault();
});
