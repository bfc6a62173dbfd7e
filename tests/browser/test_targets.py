"""A target on the page: its curve, the slider by keyboard, pinned tensors, and the job."""

import re

import pytest
from playwright.sync_api import expect

from palettery.app.client import Client
from tests.browser.test_new_job import DROPPED, submit_button

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
    page.get_by_role("button", name="Open all").click()
    menu = page.get_by_label("Bits of encoder.0.query.weight")
    with page.expect_response(lambda answer: answer.url.endswith("/v1/plans")):
        menu.select_option("keep")
    page.get_by_text("Chosen config").click()
    expect(page.get_by_text("kmeans_palettization_config")).to_be_visible()
    expect(submit_button(page)).to_be_enabled()
    submit_button(page).click()
    page.wait_for_url(re.compile("#/jobs/"))
    job = server.succeeded(page.url.rpartition("/")[2])
    expect(page.get_by_text("Measured error")).to_be_visible()
    assert job["size_after_bytes"] == job["predicted_size_bytes"] <= job["target"]["size_bytes"]
    with Client(str(server.http.base_url)) as client:
        report = client.report(job["id"])
    kept = next(each for each in report.tensors if each.name == "encoder.0.query.weight")
    assert kept.action == "kept"
    scoring = server.http.get("/v1/jobs", params={"limit": 1000}).json()["items"]
    scores = next(each for each in scoring if each.get("kind") == "scores")
    page.goto(f"/#/jobs/{scores['id']}")
    expect(page.get_by_text("The errors of every tensor at every width are stored")).to_be_visible()
