"""A target on the page: its curve, the slider by keyboard, pinned tensors, and the job."""

import json
import re

import numpy as np
import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect
from safetensors.numpy import save_file

from palettery.app.client import Client
from palettery.schemas.config.presets import EMBEDDING
from tests.browser.test_new_job import DROPPED, submit_button
from tests.forged import export

pytestmark = pytest.mark.heavy


def megabytes(text: str) -> float:
    size, unit = re.match(r"([\d.,]+) (\w+)", text).groups()
    return float(size.replace(",", "")) * {"B": 1e-6, "kB": 1e-3, "MB": 1}[unit]


def test_a_size_is_chosen_by_keyboard_and_a_tensor_pinned(server, look, small):
    page = look(server)
    page.goto("/#/new")
    page.get_by_label(DROPPED).set_input_files(small)
    expect(submit_button(page)).to_be_enabled()
    page.get_by_text("A size", exact=True).click()
    slider = page.get_by_role("slider", name="Size of the artifact")
    expect(slider).to_be_enabled()
    expect(submit_button(page)).to_be_enabled()
    expect(page.get_by_text("Quality is a guess")).to_be_visible()
    before = slider.get_attribute("aria-valuetext")
    slider.focus()
    with page.expect_response(lambda answer: answer.url.endswith("/v1/plans")) as planned:
        for _ in range(5):
            page.keyboard.press("ArrowRight")
    after = slider.get_attribute("aria-valuetext")
    assert megabytes(after) > megabytes(before)
    allocation = planned.value.json()["allocation"]
    assert allocation["size_bytes"] <= allocation["target_bytes"]
    page.keyboard.press("End")
    expect(slider).to_have_value(slider.get_attribute("max"))
    page.keyboard.press("Home")
    expect(slider).to_have_value("0")
    page.keyboard.press("PageUp")
    small_size = slider.get_attribute("aria-valuetext")
    assert megabytes(small_size) < megabytes(before)
    expect(submit_button(page)).to_be_enabled()
    page.get_by_role("button", name="Open all").click()
    menu = page.get_by_label("Bits of encoder.0.query.weight")
    menu.select_option("keep")  # more bytes than the target has
    refusal = page.get_by_role("region", name="Plan").get_by_role("alert")
    expect(refusal).to_contain_text("encoder.0.query.weight 16,384")
    refusal.get_by_role("button", name="Unpin all tensors").click()
    expect(submit_button(page)).to_be_enabled()
    slider.focus()
    page.keyboard.press("End")
    page.keyboard.press("PageDown")
    expect(submit_button(page)).to_be_enabled()
    page.get_by_role("button", name="Open all").click()
    with page.expect_response(lambda answer: answer.url.endswith("/v1/plans")):
        menu.select_option("keep")
    assert Axe().run(page).response["violations"] == []
    page.get_by_text("Chosen config").click()
    expect(page.get_by_text("kmeans_palettization_config")).to_be_visible()
    expect(submit_button(page)).to_be_enabled()
    submit_button(page).click()
    page.wait_for_url(re.compile("#/jobs/"))
    job = server.succeeded(page.url.rpartition("/")[2])
    expected = page.get_by_role("table", name="Expected and measured").get_by_role("row")
    expect(expected).to_have_count(3)
    size, error = (row.get_by_role("cell").all_inner_texts() for row in expected.all()[1:])
    assert size[0] == size[1]
    assert float(error[0]) == pytest.approx(float(error[1]), rel=0.05)
    assert job["size_after_bytes"] == job["predicted_size_bytes"] <= job["target"]["size_bytes"]
    with Client(str(server.http.base_url)) as client:
        report = client.report(job["id"])
    kept = next(each for each in report.tensors if each.name == "encoder.0.query.weight")
    assert kept.action == "kept"
    scoring = server.http.get("/v1/jobs", params={"limit": 1000}).json()["items"]
    scores = next(each for each in scoring if each.get("kind") == "scores")
    page.goto(f"/#/jobs/{scores['id']}")
    expect(page.get_by_text("The errors of every tensor at every width are stored")).to_be_visible()


def test_embeddings_that_a_config_leaves_out_are_included(server, look, small):
    page = look(server)
    page.goto("/#/new")
    page.get_by_label(DROPPED).set_input_files(small)
    plan = page.get_by_role("region", name="Plan")
    expect(plan).to_contain_text("1 embedding left out")
    expect(plan).to_contain_text("they take 16.4 kB")
    rule = json.loads(plan.locator("pre.rule").inner_text())
    assert list(rule["module_type_configs"]) == [EMBEDDING]
    assert len(Axe().run(page).response["violations"]) == 0
    plan.get_by_role("button", name="Include embeddings (131 kB, 55 %)").click()
    editor = page.get_by_role("textbox", name="Config")
    written = json.loads(editor.input_value())
    assert written["module_type_configs"] == rule["module_type_configs"]
    assert written["global_config"]["op_state_spec"]["weight"]["granularity"]["group_size"] == 16
    expect(plan.get_by_text("left out")).to_have_count(0)
    submit_button(page).click()
    page.wait_for_url(re.compile("#/jobs/"))
    job = server.succeeded(page.url.rpartition("/")[2])
    report = server.report(job["id"])
    tensor = next(each for each in report["tensors"] if each["name"] == "embeddings.word.weight")
    assert (tensor["action"], tensor["spec"]["n_bits"]) == ("palettized", 4)
    others = [each for each in report["tensors"] if each["name"] == "encoder.0.query.weight"]
    assert others[0]["spec"]["granularity"]["type"] == "per_grouped_channel"


def test_a_module_is_pinned(server, look, small):
    page = look(server)
    page.goto("/#/new")
    page.get_by_label(DROPPED).set_input_files(small)
    expect(submit_button(page)).to_be_enabled()
    page.get_by_text("A size", exact=True).click()
    expect(page.get_by_role("slider")).to_be_enabled()
    expect(submit_button(page)).to_be_enabled()
    page.get_by_role("button", name="Open all").click()
    name = "Bits of encoder.0"
    with page.expect_response(lambda answer: answer.url.endswith("/v1/plans")) as planned:
        page.get_by_label(name, exact=True).select_option("3 bit")
    tensors = {each["name"]: each for each in planned.value.json()["tensors"]}
    for local in ("query", "key", "dense"):
        assert tensors[f"encoder.0.{local}.weight"]["spec"]["n_bits"] == 3
    expect(submit_button(page)).to_be_enabled()
    page.get_by_role("button", name="Open all").click()
    expect(page.get_by_label(name, exact=True)).to_have_value("3")
    with page.expect_response(lambda answer: answer.url.endswith("/v1/plans")):
        page.get_by_label(f"{name}.key.weight").select_option("chosen")
    expect(submit_button(page)).to_be_enabled()
    page.get_by_role("button", name="Open all").click()
    expect(page.get_by_label(name, exact=True)).to_have_value("mixed")


@pytest.fixture(scope="module")
def quality_job(server, tmp_path_factory):
    """A job whose target is a quality, and its report."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("quality")
    layers = [torch.nn.Linear(48, 48) for _ in range(2)]
    net = torch.nn.Sequential(layers[0], torch.nn.Tanh(), layers[1])
    dims = ({0: torch.export.Dim("batch")},)
    program = export(net.eval(), torch.randn(3, 48), dynamic_shapes=dims)
    (folder / "net.pt2").write_bytes(program)
    inputs = np.random.default_rng(1).normal(size=(64, 48)).astype("f4")
    save_file({"input": inputs}, folder / "x.safetensors")
    with Client(str(server.http.base_url)) as client:
        job = client.submit(
            folder / "net.pt2",
            target="cosine.p5>=0.98",
            evaluate={"inputs_id": folder / "x.safetensors"},
        )
        done = client.wait(job.id)
        assert done.state == "succeeded", done.error
        return done, client.report(job.id)


def check_trail(page: Page, job, report) -> None:
    """Every size that was measured is shown, with its quality; expected and measured are beside."""
    trail = sorted(report.allocation.measured, key=lambda each: each.size_bytes)
    rows = page.get_by_role("table", name="Sizes that were measured").get_by_role("row")
    expect(rows).to_have_count(1 + len(trail))
    assert 1 < len(trail) <= 8
    for row, size in zip(rows.all()[1:], trail, strict=True):
        cells = row.get_by_role("cell").all_inner_texts()
        assert float(cells[0]) == pytest.approx(size.reached["cosine.p5"], abs=1e-5)
        assert float(cells[1]) == pytest.approx(size.error, rel=1e-3)
        is_chosen = ", chosen" if size.size_bytes == job.size_after_bytes else ""
        assert cells[2] == f"{'reached' if size.is_reached else 'not reached'}{is_chosen}"
    rows = page.get_by_role("table", name="Expected and measured").get_by_role("row")
    headers = rows.get_by_role("rowheader").all_inner_texts()
    assert headers == ["Size", "Error of weights, relative", "cosine.p5 of outputs"]
    size, error, quality = (row.get_by_role("cell").all_inner_texts() for row in rows.all()[1:])
    assert size[0] == size[1]
    assert float(error[0]) == pytest.approx(float(error[1]), rel=0.05)
    (output,) = report.evaluation.outputs
    assert quality == ["at least 0.98", f"{output.sample_cosine.p5:.5f}"]


def test_the_sizes_that_were_measured_for_a_quality(server, look, quality_job):
    job, report = quality_job
    page = look(server)
    page.goto(f"/#/jobs/{job.id}")
    expect(page.get_by_text("cosine.p5 at least 0.98")).to_be_visible()
    expect(page.get_by_text("The required quality was reached")).to_be_visible()
    check_trail(page, job, report)
    assert Axe().run(page).response["violations"] == []


def test_they_are_in_the_report_that_needs_no_server(server, look, quality_job, tmp_path):
    job, report = quality_job
    path = tmp_path / "report.html"
    path.write_bytes(server.http.get(f"/v1/jobs/{job.id}/report.html").raise_for_status().content)
    page = look(None)
    page.goto(path.as_uri())
    check_trail(page, job, report)
