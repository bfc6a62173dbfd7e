// Actions on a job.

import { fetchJson } from "./api.js";
import { button, confirmed } from "./dom.js";
import { hasEnded } from "./progress.js";

/** Buttons for a job's actions; `done` gets the changed job, or null if deleted; `failed` the error. */
export function actions(job, done, failed) {
  const path = `/v1/jobs/${job.id}`;
  const named = (verb) => ({ class: "small", "aria-label": `${verb} ${job.model_name}` });

  async function act(event, options, where = path) {
    const pressed = event.currentTarget;
    pressed.disabled = true;
    try {
      done(await fetchJson(where, options));
    } catch (error) {
      pressed.disabled = false;
      failed(error);
    }
  }

  const cancel = button("Cancel", (event) => confirmThen(event, "Cancel this job?", `Finished tensors of ${job.model_name} are kept, and a retry continues from there.`, "Cancel the job",
    (pressed) => act(pressed, { method: "POST" }, `${path}/cancel`)), named("Cancel"));
  const retry = button("Retry", (event) => act(event, { method: "POST" }, `${path}/retry`), named("Retry"));
  const remove = button("Delete", (event) => confirmThen(event, "Delete this job?", `The job of ${job.model_name}, its artifact and its report are deleted. This cannot be undone.`, "Delete the job",
    (pressed) => act(pressed, { method: "DELETE" })), named("Delete"));
  if (!hasEnded(job)) return [cancel];
  return job.state === "succeeded" ? [remove] : [retry, remove];
}

async function confirmThen(event, question, detail, verb, act) {
  const pressed = { currentTarget: event.currentTarget };
  if (await confirmed(question, detail, verb)) await act(pressed);
}
