"""A report's own page, opened from the disk: it needs no server."""

import re
from uuid import uuid4

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect
from safetensors.numpy import save

from palettery.app.dashboard.report_page import report_page
from palettery.app.storage.open import open_storage
from palettery.schemas.evaluation import Evaluation
from tests.app.stored_job import StoredJob, config_of, draws
from tests.browser.conftest import NARROW, WIDE
from tests.browser.test_access import shot

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def page_file(server, jobs, tmp_path_factory):
    """The page of the job `w4`, as it was downloaded."""
    answer = server.http.get(f"/v1/jobs/{jobs['w4']}/report.html").raise_for_status()
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_bytes(answer.content)
    return path


@pytest.mark.parametrize(("scheme", "width"), [("light", WIDE), ("dark", NARROW)], ids=str)
def test_it_shows_all_without_a_server(server, look, jobs, model, page_file, scheme, width):
    page = look(None, color_scheme=scheme, viewport=width)
    urls: list[str] = []
    page.on("request", lambda each: urls.append(each.url))
    page.goto(page_file.as_uri())
    report = server.report(jobs["w4"])
    done = [each for each in report["tensors"] if each["action"] == "palettized"]
    expect(page.get_by_role("heading", name="Result")).to_be_visible()
    bars = page.get_by_role("img", name=re.compile("^Error by tensor"))
    bars.scroll_into_view_if_needed()
    expect(bars.locator(".bars .point")).to_have_count(len(done))
    page.get_by_role("button", name=done[0]["name"], exact=True).first.click()
    title = page.get_by_role("heading", name=done[0]["name"])
    expect(title).to_be_focused()
    for plot in page.locator(".plot").all():
        plot.scroll_into_view_if_needed()
        expect(plot).to_have_attribute("data-drawn", "yes")
    page.evaluate("scrollTo(0, 0)")
    page.screenshot(path=shot(model, "report", scheme, width), full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= width["width"]
    assert [each for each in urls if not each.startswith(("data:", "blob:"))] == [
        page_file.as_uri()
    ]
    violations = Axe().run(page).response["violations"]
    assert [each["id"] for each in violations if each["impact"] in ("serious", "critical")] == []


STATISTICS = {"mean": 0.97, "p5": 0.9, "min": 0.8}
LOGITS = {"top1_agreement": 0.9, "kl_divergence": 0.02, "accuracy_before": 0.8}
EVALUATION = {
    "samples": 512,
    "outputs": [
        {
            "name": "<b>logits</b>",
            "shape": [512, 8],
            "snr_db": 12.5,
            "cosine": 0.97,
            "max_error": 0.5,
            "sample_cosine": STATISTICS,
            "sample_snr_db": STATISTICS,
            "logits": LOGITS | {"accuracy_after": 0.7, "loss_before": 0.5, "loss_after": 0.6},
        }
    ],
    "goals": ["cosine=0.98", "top1=0.5"],
    "missed": [{"goal": "cosine=0.98", "output": "<b>logits</b>", "reached": 0.97}],
    "warnings": ["3 of these samples are samples of the calibration"],
}


def test_the_evaluation_comes_first(look, tmp_path):
    store = open_storage((tmp_path / "store").as_uri())
    job = StoredJob(store, str(uuid4()), draws(a=(32, 32)), config_of(n_bits=4)).palettize()
    job.finish()
    evaluation = Evaluation.model_validate(EVALUATION)
    report = job.report().model_copy(update={"evaluation": evaluation})
    path = tmp_path / "report.html"
    path.write_bytes(b"".join(report_page({"report": [report.model_dump_json().encode()]})))
    page = look(None)
    page.goto(path.as_uri())
    expect(page.get_by_role("heading", level=2).first).to_have_text("Evaluation")
    section = page.locator("section", has=page.get_by_role("heading", name="Evaluation"))
    expect(section).to_contain_text("The required quality was not reached")
    expect(section).to_contain_text("cosine=0.98 required, not reached: <b>logits</b> has 0.9700")
    expect(section).to_contain_text("top1=0.5 required, reached")
    cells = section.get_by_role("row").nth(1).get_by_role("cell")
    expect(cells).to_have_text(["0.97000", "0.90000", "0.80000", "12.5 dB", "0.5"])
    expect(section).to_contain_text("accuracy 80.0 % → 70.0 %, loss 0.5 → 0.6")
    expect(section).to_contain_text("3 of these samples are samples of the calibration")


def opened(server, look, tmp_path, names):
    """The page of a job whose tensors have these names, from the disk."""
    rng = np.random.default_rng(3)
    body = save({name: rng.normal(size=(64, 64)).astype(np.float32) for name in names})
    job_id = server.submit(body, "odd.safetensors")
    server.succeeded(job_id)
    path = tmp_path / "report.html"
    path.write_bytes(server.http.get(f"/v1/jobs/{job_id}/report.html").content)
    page = look(None)
    page.goto(path.as_uri())
    return page


def test_names_with_markup_are_text_there_too(server, look, tmp_path):
    name = "</script><img src=x onerror=window.hit=1>.weight"
    page = opened(server, look, tmp_path, [name])
    page.get_by_role("button", name=name).click()
    expect(page.get_by_role("heading", name=name)).to_be_visible()
    assert page.evaluate("window.hit") is None
    assert page.locator("img[src=x]").count() == 0


def test_bytes_are_drawn_whatever_modules_are_called(server, look, tmp_path):
    """As all of a hub's language models are, and as JavaScript's own objects."""
    names = ["model.layers.0", "__proto__", "constructor.prototype", ".hidden", "a..b"]
    page = opened(server, look, tmp_path, [f"{each}.weight" for each in names])
    plot = page.get_by_role("img", name=re.compile("^Size by module"))
    plot.scroll_into_view_if_needed()
    before = plot.locator(".trace.treemap").first
    for label in ("model", "__proto__", "constructor", "hidden", "a"):
        expect(before.get_by_text(label, exact=True).first).to_be_visible()
