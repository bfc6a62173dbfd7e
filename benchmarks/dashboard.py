"""The dashboard in a browser: first view with many jobs, a job of many tensors, size of its files.

Run as `python -m benchmarks.dashboard`. Without Chromium, prints that and ends.
"""

import shutil
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from uuid import uuid4

import numpy as np
from playwright.sync_api import Browser, Page, sync_playwright
from safetensors.numpy import save

from benchmarks.service import row
from benchmarks.serving import Service, embedded
from palettery.app.database.engine import open_database
from palettery.app.jobs.job_rows import NewJob
from palettery.app.jobs.repository import JobRepository
from palettery.app.settings import sqlite_url
from palettery.schemas.jobs import Progress

JOBS, TENSORS, TURNS = 1_000, 2_000, 5
WORKERS = 2
FIRST_GOAL_MS, JOB_GOAL_MS, SIZE_GOAL_KB = 1_000, 2_000, 150
VIEWS = ("#/jobs", "#/new", "#/compare", "#/service")
WAIT_MS = 120_000
WATCH = """
window.seen = {};
window.slowest = 0;
new PerformanceObserver((list) => {
  for (const task of list.getEntries()) slowest = Math.max(slowest, task.duration);
}).observe({ type: "longtask", buffered: true });
const marks = { list: ".job", table: ".tabled tbody tr", charts: ".plot[data-drawn]" };
const recordPaints = () => {
  for (const [name, mark] of Object.entries(marks)) {
    if (!(name in seen) && document.querySelector(mark)) {
      seen[name] = null;
      requestAnimationFrame(() => setTimeout(() => { seen[name] = performance.now(); }));
    }
  }
};
new MutationObserver(recordPaints).observe(document, {
  childList: true, subtree: true, attributeFilter: ["data-drawn"],
});
"""
"""Records when each mark was first painted, from the start of navigation, and the longest task."""


def main() -> None:
    """Measure, and print each row as soon as it is known."""
    program = shutil.which("chromium")
    if program is None:
        print("chromium is not installed: `apt-get install chromium`")
        return
    print("| what | measured | ratio | goal |\n| --- | --- | --- | --- |")
    with (
        tempfile.TemporaryDirectory(prefix="palettery-bench-") as folder,
        embedded(Path(folder), WORKERS) as service,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=program)
        job_id = _many_tensors(service)
        _many_jobs(Path(folder))
        first_view(browser, service)
        job_view(browser, service, job_id)
        page_size(browser, service)
        browser.close()


def first_view(browser: Browser, service: Service) -> None:
    """Time from navigation to the first paint of the list, with an empty cache."""
    times = sorted(_painted(browser, service, "", "list")[0] for _ in range(TURNS))
    middle = statistics.median(times)
    what = f"first view with {JOBS:,} jobs, median of {TURNS}"
    shown = f"{middle:.0f} ms; worst {times[-1]:.0f} ms"
    row(what, shown, middle / FIRST_GOAL_MS, f"{FIRST_GOAL_MS / 1e3:.0f} s")


def job_view(browser: Browser, service: Service, job_id: str) -> None:
    """The same for the view of a job: until its table is usable, until a chart is drawn."""
    for name, what in {"table": "its table is usable", "charts": "a chart is drawn"}.items():
        turns = [_painted(browser, service, f"#/jobs/{job_id}", name) for _ in range(TURNS)]
        times, slowest = sorted(each for each, _ in turns), max(each for _, each in turns)
        middle = statistics.median(times)
        shown = f"{middle:.0f} ms; worst {times[-1]:.0f} ms; longest task {slowest:.0f} ms"
        what = f"job of {TENSORS:,} tensors: {what}, median of {TURNS}"
        row(what, shown, middle / JOB_GOAL_MS, f"{JOB_GOAL_MS / 1e3:.0f} s")


def page_size(browser: Browser, service: Service) -> None:
    """Size of all files fetched by a visit to every view, without plotly.js and the API."""
    with _page(browser) as page:
        for view in VIEWS:
            page.goto(service.url + "/" + view)
            page.wait_for_load_state("networkidle" if view == "#/new" else "load")
        sizes = page.evaluate(
            "performance.getEntries().filter((each) => each.encodedBodySize"
            " && !/v1|plotly|livez/.test(each.name))"
            ".map((each) => [each.encodedBodySize, each.decodedBodySize])"
        )
    compressed_kb, decoded_kb = (sum(column) / 1e3 for column in zip(*sizes, strict=True))
    goal = f"{SIZE_GOAL_KB} kB"
    row(
        f"page of {len(sizes)} files as sent",
        f"{compressed_kb:.0f} kB",
        compressed_kb / SIZE_GOAL_KB,
        goal,
    )
    row("the same, decompressed", f"{decoded_kb:.0f} kB", decoded_kb / SIZE_GOAL_KB, goal)


@contextmanager
def _page(browser: Browser) -> Iterator[Page]:
    """Open a page with an empty cache."""
    context = browser.new_context(viewport={"width": 1280, "height": 1400})
    context.set_default_timeout(WAIT_MS)
    context.add_init_script(WATCH)
    with closing(context):
        yield context.new_page()


def _painted(browser: Browser, service: Service, view: str, name: str) -> tuple[float, float]:
    """Return the milliseconds to the first paint of a mark, and the longest task until then."""
    with _page(browser) as page:
        page.goto(f"{service.url}/{view}")
        page.wait_for_function("(name) => seen[name]", arg=name)
        at, slowest = page.evaluate("(name) => [seen[name], slowest]", name)
        return float(at), float(slowest)


def _many_tensors(service: Service) -> str:
    """Run a job of a model of many small tensors; return its ID."""
    rng = np.random.default_rng(0)
    model = save(
        {
            f"model.layers.{number // 8}.block{number % 8}.weight": rng.standard_normal(
                (32, 32), np.float32
            )
            for number in range(TENSORS)
        }
    )
    response = service.http.post(
        "/v1/jobs", files={"model": ("many.safetensors", model)}, data={"preset": "w4"}
    )
    job = service.client.wait(response.raise_for_status().json()["id"])
    assert job.state == "succeeded"  # noqa: S101
    return job.id


def _many_jobs(folder: Path) -> None:
    """Store rows of succeeded jobs, as the service would."""
    with closing(open_database(sqlite_url(folder / "data" / "palettery.db"))) as database:
        jobs = JobRepository(database)
        for number in range(JOBS):
            new = NewJob(str(uuid4()), f"model-{number}.safetensors", 1 << 30, Progress())
            jobs.start(jobs.add(new).id)
            jobs.succeed(new.id, 1 << 27)


if __name__ == "__main__":
    main()
