"""Each view as a person uses it, on a real server, with a small model and with MiniLM."""

import csv
import re

import pytest
from playwright.sync_api import Locator, Page, expect
from safetensors.numpy import load_file

from palettery.schemas.config import KMeansPalettizerConfig, w4
from tests.browser.conftest import SLOW

pytestmark = pytest.mark.heavy

WORST = "Error by tensor"


def heading(page: Page, name: str | re.Pattern[str]) -> None:
    expect(page.get_by_role("heading", name=name, level=1)).to_be_visible()


def row_of(page: Page, job_id: str) -> Locator:
    """A job in the list."""
    return page.get_by_role("listitem").filter(has=page.locator(f"a[href='#/jobs/{job_id}']"))


def test_jobs_move_by_themselves_and_obey(server, look, slow):
    page = look(server)
    page.goto("/")
    heading(page, "Jobs")
    job_id = server.submit(slow.read_bytes(), "slow.safetensors", config=SLOW, priority=3)
    row = row_of(page, job_id)
    expect(row).to_contain_text("slow.safetensors")
    expect(row).to_contain_text("priority 3")
    expect(row.get_by_text("running", exact=True)).to_be_visible()
    expect(row).to_contain_text(re.compile(r"\d of 16 tensors · .* of 67\.1 MB"))

    row.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Go back").click()
    expect(row.get_by_text("running", exact=True)).to_be_visible()
    row.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Cancel the job").click()
    expect(row.get_by_text("cancelled", exact=True)).to_be_visible()
    row.get_by_role("button", name="Retry").click()
    expect(row).to_contain_text("attempt 2")
    row.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Cancel the job").click()
    expect(row.get_by_text("cancelled", exact=True)).to_be_visible()
    row.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Delete the job").click()
    expect(row).to_have_count(0)
    assert server.http.get(f"/v1/jobs/{job_id}").status_code == 404


def test_the_list_is_filtered_by_state_and_by_words(server, look, jobs):
    page = look(server)
    page.goto("/")
    shown = page.get_by_role("list", name="Jobs, newest first").get_by_role("listitem")
    row = row_of(page, jobs["w4"])
    expect(row).to_contain_text(re.compile(r"B → .*B"))
    page.get_by_role("searchbox", name="Filter jobs").fill(jobs["w4"])
    expect(shown.locator("visible=true")).to_have_count(1)
    page.get_by_role("searchbox", name="Filter jobs").fill("no such thing")
    expect(page.get_by_text("No job matches.")).to_be_visible()
    page.get_by_role("searchbox", name="Filter jobs").fill("")
    page.get_by_text("failed", exact=True).click()
    expect(page.get_by_text("No job matches.")).to_be_visible()
    page.locator("fieldset").get_by_text("succeeded", exact=True).click()
    expect(row).to_be_visible()


def test_a_new_job_is_planned_before_it_is_submitted(server, look, model):
    page = look(server)
    page.goto("/#/new")
    page.get_by_label("Drop model files here").set_input_files(model)
    expect(page.get_by_role("status").get_by_text(f"{model.name}: ")).to_be_visible()
    plan = page.get_by_role("region", name="Plan")
    expect(plan.get_by_text("Predicted size")).to_be_visible()

    page.get_by_text("Write one", exact=True).click()
    editor = page.get_by_role("textbox", name="Config")
    editor.fill(
        "global_config:\n  op_state_spec:\n    weight: {n_bits: 5}\nmodule_nam_configs: {}\n"
    )
    data = page.get_by_role("status").filter(has_text="2 errors")
    expect(data).to_contain_text("line 3")
    expect(data).to_contain_text("n_bits must be one of 1, 2, 3, 4, 6, 8; got 5")
    expect(data).to_contain_text("line 4")
    expect(page.locator(".gutter .bad")).to_have_text(["3", "4"])
    data.get_by_role("button", name="line 4").click()
    assert editor.evaluate("(e) => e.value.slice(e.selectionStart, e.selectionEnd)") == (
        "module_nam_configs: {}"
    )
    submit = page.get_by_role("button", name="Submit the job")
    expect(submit).to_be_disabled()

    editor.fill(
        "global_config:\n  op_state_spec:\n    weight: {n_bits: 4}\n"
        "module_name_configs:\n  encodr: {op_state_spec: {weight: {n_bits: 2}}}\n"
    )
    expect(plan.get_by_text("1 key of the config matched no tensor")).to_be_visible()
    plan.get_by_role("button", name="Open all").click()
    leaf = plan.locator(".leaf.palettized").first
    expect(leaf).to_contain_text("4 bits, one palette")
    expect(leaf).to_contain_text('global_config.op_state_spec["weight"]')
    expect(plan.locator(".leaf.kept").first).to_contain_text("kept: ")

    page.get_by_label("torchao state dict").check()
    page.get_by_label("Priority").fill("8")
    page.get_by_role("radio", name="Preset").locator("+ label").click()
    page.get_by_text("w6", exact=True).click()
    expect(plan.locator(".leaf.palettized, summary").first).to_be_visible()
    expect(submit).to_be_enabled()
    submit.click()
    heading(page, re.compile(model.name))
    expect(page.get_by_role("heading", name="Result")).to_be_visible()
    job = server.http.get(f"/v1/jobs/{page.url.rsplit('/', 1)[1]}").json()
    assert (job["state"], job["priority"]) == ("succeeded", 8)
    expect(page.get_by_role("link", name="torchao")).to_be_visible()


def test_a_job_shows_where_bytes_and_errors_are(server, look, jobs, model, tmp_path):
    page = look(server)
    page.goto(f"/#/jobs/{jobs['w4']}")
    report = server.report(jobs["w4"])
    heading(page, re.compile(f"{model.name} succeeded"))
    expect(page.locator(".sizebar")).to_have_count(2)
    expect(page.get_by_role("list", name="Log")).to_contain_text("the artifact was read back")
    expect(page.locator(".stagelist")).to_contain_text("palettizing")

    treemap = page.get_by_role("img", name=re.compile("^Size by module"))
    treemap.scroll_into_view_if_needed()
    expect(treemap.locator(".slice").first).to_be_visible()
    way = page.get_by_role("navigation", name="Parent modules")
    expect(way).to_have_text("model")
    treemap.evaluate("(plot) => plot.scrollIntoView({ block: 'center' })")
    treemap.get_by_text("encoder", exact=True).first.click(force=True)
    expect(way).to_have_text("model / encoder")
    expect(treemap.get_by_text("After: encoder", exact=True)).to_be_visible()
    way.get_by_role("button", name="model").press("Enter")
    expect(way).to_have_text("model")
    expect(treemap.get_by_text("After", exact=True)).to_be_visible()
    bars = page.get_by_role("img", name=re.compile(f"^{WORST}"))
    bars.scroll_into_view_if_needed()
    done = [each for each in report["tensors"] if each["action"] == "palettized"]
    expect(bars.locator(".bars .point")).to_have_count(len(done))

    table = page.get_by_role("region", name="Tensors", exact=True)
    worst = min(done, key=lambda each: each["snr_db"])["name"]
    expect(table.locator("tbody tr").first).to_contain_text(worst)
    bars.locator(".bars .point").first.click(force=True)
    expect(table.locator("tr[aria-current]")).to_contain_text(worst)
    table.get_by_role("button", name="After").click()
    largest = max(report["tensors"], key=lambda each: each["size_after_bytes"])["name"]
    expect(table.locator("tbody tr").first).to_contain_text(largest)
    expect(table.get_by_role("columnheader", name="After")).to_have_attribute(
        "aria-sort", "descending"
    )

    reasons = page.locator("details.reason")
    kept = {each["reason"] for each in report["tensors"] if each["action"] == "kept"}
    expect(reasons).to_have_count(len(kept))
    reasons.first.locator("summary").click()
    expect(reasons.first.get_by_role("region")).to_be_visible()

    with page.expect_download() as arrived:
        page.get_by_role("link", name="model.safetensors").click()
    arrived.value.save_as(tmp_path / "artifact")
    assert f"{worst}.indices" in load_file(tmp_path / "artifact")
    with page.expect_download() as arrived:
        page.get_by_role("link", name="config.json").click()
    assert KMeansPalettizerConfig.model_validate_json(arrived.value.path().read_bytes()) == w4()
    with page.expect_download() as arrived:
        page.locator(".tabled").filter(has=table).get_by_role("button", name="CSV").click()
    rows = csv.DictReader(arrived.value.path().read_text().splitlines())
    assert {each["Tensor"] for each in rows} == {each["name"] for each in report["tensors"]}


def test_a_tensor_shows_its_weights_palette_and_errors(server, look, jobs):
    page = look(server)
    page.goto(f"/#/jobs/{jobs['w4']}")
    done = [each for each in server.report(jobs["w4"])["tensors"] if each["action"] == "palettized"]
    page.get_by_role("link", name=done[0]["name"], exact=True).first.click()
    heading(page, done[0]["name"])
    expect(page.get_by_text("4 bits, one palette per 16 channels of axis 0")).to_be_visible()
    data = server.http.get(
        f"/v1/jobs/{jobs['w4']}/statistics", params={"tensor": done[0]["name"]}
    ).json()
    drawn = {
        "Weights before and after": len(data["weights"]) * 2,
        "Usage of palette entries": 16,
        "Error by palette": len(data["group_mse"]),
    }
    for title, bars in drawn.items():
        chart = page.get_by_role("img", name=re.compile(f"^{title}"))
        chart.scroll_into_view_if_needed()
        expect(chart.locator(".bars .point")).to_have_count(bars)
    page.locator("figure", has_text="Usage of palette entries").get_by_text("Numbers").click()
    table = page.get_by_role("region", name="Usage of palette entries")
    expect(table.locator("tbody tr").first).to_contain_text(f"{data['occupancy'][0]:,}")
    page.get_by_role("link", name="Next tensor").click()
    heading(page, done[1]["name"])


def test_jobs_of_one_model_are_compared(server, look, jobs):
    page = look(server)
    page.goto("/")
    for job_id in jobs.values():
        row_of(page, job_id).get_by_role("checkbox").check()
    page.get_by_role("link", name="Compare 3").click()
    heading(page, "Compare")
    rows = page.get_by_role("region", name="Compared jobs").locator("tbody tr")
    expect(rows).to_have_text([re.compile(f"^{each}") for each in ("A w4", "B w6", "C w8")])
    expect(page.get_by_text("no other job beats in both: A, B, C.")).to_be_visible()
    points = page.get_by_role("img", name=re.compile("^Size vs. error"))
    expect(points.locator("path.point")).to_have_count(3)
    differing = page.get_by_role("region", name="Differences by tensor", exact=True)
    expect(differing.locator("tbody tr").first).to_contain_text("weight")
    specs = page.get_by_role("region", name="Specs where the configs differ")
    expect(specs).to_contain_text("4 bits, one palette per 16 channels of axis 0")
    expect(specs).to_contain_text("8 bits, one palette")
    page.get_by_text("Text of 3 configs").click()
    for n_bits in (4, 6, 8):
        expect(page.locator("pre").get_by_text(f'"n_bits": {n_bits}')).to_be_visible()


@pytest.mark.usefixtures("jobs")
def test_the_service_tells_how_it_is(server, look):
    page = look(server)
    page.goto("/")
    page.get_by_role("link", name="Service").click()
    heading(page, "Service")
    data = server.http.get("/v1/service").json()
    expect(page.get_by_role("region", name="Workers").locator("tbody tr")).to_have_count(2)
    expect(page.get_by_role("region", name="Queue")).to_contain_text("Running")
    expect(page.get_by_role("progressbar", name="Disk of the store")).to_be_visible()
    expect(page.get_by_role("region", name="Software")).to_contain_text(data["software"]["numba"])
    expect(page.get_by_text("not required")).to_be_visible()
