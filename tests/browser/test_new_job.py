"""A new job: what is submitted is what was dropped last, and nothing is lost without a word."""

import re
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Page, Route, expect
from safetensors.numpy import save, save_file

from palettery.app.client import Client
from tests.browser.test_bad_input import drop

pytestmark = pytest.mark.heavy
DROPPED = "Drop model files here"


@pytest.fixture
def another(tmp_path) -> Path:
    """A model with another name and other weights than any that the server has."""
    rng = np.random.default_rng()
    path = tmp_path / "another.safetensors"
    save_file({"only.weight": rng.normal(size=(64, 64)).astype(np.float32)}, path)
    return path


class Held:
    """Parts that a page sends, which do not get to the server before they are let go."""

    def __init__(self, page: Page) -> None:
        self.routes: list[Route] = []
        self._page = page
        page.route("**/v1/uploads/*/parts/*", lambda route: self.routes.append(route))

    def let_go(self) -> None:
        for route in self.routes:
            route.continue_()
        self._page.unroute("**/v1/uploads/*/parts/*")


def submit_button(page: Page):
    return page.get_by_role("button", name="Submit the job")


def planned(page: Page, path: Path) -> None:
    """Drop a file, and wait for its plan."""
    page.goto("/#/new")
    page.get_by_label(DROPPED).set_input_files(path)
    expect(submit_button(page)).to_be_enabled()


def test_while_a_second_file_is_sent_the_first_cannot_be_submitted(server, look, small, another):
    page = look(server)
    planned(page, small)
    stored = Held(page)
    page.get_by_label(DROPPED).set_input_files(another)
    expect(page.get_by_text("The plan appears once the model is uploaded.")).to_be_visible()
    expect(submit_button(page)).to_be_disabled()
    chooser = page.get_by_label("Or choose a stored model")
    expect(chooser).to_be_disabled()
    expect(chooser).to_have_value("")
    expect(page.get_by_text("small.safetensors: ")).to_have_count(0)
    page.get_by_text("w8", exact=True).click()  # another preset plans nothing either
    expect(submit_button(page)).to_be_disabled()
    stored.let_go()
    submit_button(page).click()
    page.wait_for_url(re.compile("#/jobs/"))
    job = server.http.get(f"/v1/jobs/{page.url.rpartition('/')[2]}").json()
    assert job["model_name"] == "another.safetensors"


def test_stopped_or_replaced_nothing_is_chosen_any_more(server, look, small, another):
    page = look(server)
    planned(page, small)
    Held(page)
    page.get_by_label(DROPPED).set_input_files(another)
    page.get_by_role("button", name="Stop the upload of another.safetensors").click()
    expect(page.get_by_label("Or choose a stored model")).to_be_enabled()
    expect(page.get_by_text("Choose a model to see")).to_be_visible()
    expect(submit_button(page)).to_be_disabled()
    page.get_by_label(DROPPED).set_input_files(another)
    stop = page.get_by_role("button", name="Stop the upload of another.safetensors")
    expect(stop).to_be_visible()
    page.get_by_label(DROPPED).set_input_files(small)  # which is there, and wins
    expect(submit_button(page)).to_be_enabled()
    expect(page.get_by_text("small.safetensors: ")).to_be_visible()
    expect(stop).to_have_count(0)


def test_leaving_asks_first_while_files_are_sent(server, look, another):
    page = look(server)
    page.goto("/#/new")
    Held(page)
    page.get_by_label(DROPPED).set_input_files(another)
    stop = page.get_by_role("button", name="Stop the upload of another.safetensors")
    expect(stop).to_be_visible()
    for link in ("Service", "Jobs"):
        page.get_by_role("navigation").get_by_role("link", name=link).click()
        dialog = page.get_by_role("dialog")
        expect(dialog).to_contain_text("The upload of another.safetensors stops")
        dialog.get_by_role("button", name="Go back").click()
        expect(page).to_have_url(re.compile("#/new$"))
        expect(stop).to_be_visible()
    requests = []
    page.once("dialog", lambda dialog: (requests.append(dialog.type), dialog.dismiss()))
    page.evaluate("setTimeout(() => location.reload(), 0)")
    page.wait_for_event("dialog")
    assert requests == ["beforeunload"]
    page.get_by_role("navigation").get_by_role("link", name="Jobs").click()
    page.get_by_role("dialog").get_by_role("button", name="Leave").click()
    expect(page.get_by_role("heading", name="Jobs", exact=True)).to_be_visible()
    page.get_by_role("navigation").get_by_role("link", name="Service").click()  # asks no more
    expect(page.get_by_role("heading", name="Service", exact=True)).to_be_visible()


REFUSED = {
    "model.pickle": b"\x80\x04 no model at all",
    "short.safetensors": b"\x10\x00\x00\x00\x00\x00\x00\x00{",
    "no.safetensors": b"\xff" * 100,
    "page.html": b"<html></html>",
}


@pytest.mark.parametrize("name", REFUSED)
def test_files_that_are_refused_for_good_leave_nothing_behind(server, look, name):
    page = look(server)
    page.goto("/#/new")
    for number in range(2):
        drop(page, name, REFUSED[name] + bytes([number]))
        refusal = page.locator(".drop").get_by_role("alert")
        expect(refusal).to_be_visible()
        expect(refusal.get_by_role("button", name="Try again")).to_have_count(0)
    assert name not in server.http.get("/v1/uploads").text
    with page.expect_response("**/v1/uploads?*"):
        page.reload()
    expect(page.get_by_label(DROPPED)).to_be_attached()
    expect(page.locator(".interrupted").filter(has_text=name)).to_have_count(0)
    expect(submit_button(page)).to_be_disabled()


def test_a_failure_that_may_pass_can_be_tried_again(server, look, another):
    page = look(server)
    page.goto("/#/new")
    refuse = {"status": 409, "content_type": "application/problem+json", "body": "{}"}
    page.route("**/v1/uploads/*/complete", lambda route: route.fulfill(**refuse))
    page.get_by_label(DROPPED).set_input_files(another)
    again = page.locator(".drop").get_by_role("button", name="Try again")
    expect(again).to_be_visible()
    page.unroute("**/v1/uploads/*/complete")
    again.click()
    expect(submit_button(page)).to_be_enabled()


def test_byte_identical_models_compare_however_they_came(server, look, tmp_path):
    rng = np.random.default_rng(12)
    body = save({"a.weight": rng.normal(size=(64, 64)).astype(np.float32)})
    for name in ("uploaded", "renamed"):
        (tmp_path / f"{name}.safetensors").write_bytes(body)
    with_form = server.submit(body, "form.safetensors", preset="w6", label="by form")
    page = look(server)
    for name in ("uploaded", "renamed"):
        planned(page, tmp_path / f"{name}.safetensors")
        page.get_by_label("Label", exact=True).fill(f"by {name}")
        submit_button(page).click()
        page.wait_for_url(re.compile("#/jobs/"))
        expect(page.get_by_text(f"by {name}", exact=True)).to_be_visible()
        server.succeeded(page.url.rpartition("/")[2])
    server.succeeded(with_form)
    page.goto("/#/jobs")
    page.get_by_label("Filter jobs").fill("by ")
    for name in ("form", "uploaded", "renamed"):
        row = page.get_by_role("listitem").filter(has_text=f"by {name}")
        row.get_by_role("checkbox").check()
    page.get_by_role("link", name="Compare 3").click()
    expect(page.get_by_role("heading", name="Differences by tensor")).to_be_visible()
    expect(page.get_by_text("may be of different models")).to_have_count(0)
    expect(page.get_by_text("A by ").first).to_be_visible()
    page.goto("/#/compare")
    card = page.locator("section").filter(has_text="by form")
    for name in ("form", "uploaded", "renamed"):
        expect(card.get_by_text(f"by {name}")).to_be_visible()


def test_a_job_is_run_again_with_changes(server, look, small):
    page = look(server)
    planned(page, small)
    model = page.get_by_label("Or choose a stored model").input_value()
    document = {"model_id": model, "label": "first", "priority": 7, "reuse": False}
    document["config"] = {"global_config": {"op_state_spec": {"weight": {"n_bits": 6}}}}
    job_id = server.http.post("/v1/jobs", json=document).raise_for_status().json()["id"]
    page.goto(f"/#/jobs/{job_id}")
    page.get_by_role("link", name="Run again with changes").click()
    expect(page.get_by_label("Or choose a stored model")).to_have_value(model)
    expect(page.get_by_label("Label", exact=True)).to_have_value("first")
    expect(page.get_by_label("Priority")).to_have_value("7")
    expect(page.get_by_label("Reuse results of earlier jobs")).not_to_be_checked()
    editor = page.get_by_role("textbox", name="Config")
    text = editor.input_value()
    assert '"n_bits": 6' in text
    editor.fill(text.replace('"n_bits": 6', '"n_bits": 3'))
    expect(submit_button(page)).to_be_disabled()  # until the plan is that of the new text
    submit_button(page).click()
    page.wait_for_url(lambda url: "#/jobs/" in url and job_id not in url)
    changed = server.http.get(f"/v1/jobs/{page.url.rpartition('/')[2]}/config").json()
    assert changed["global_config"]["op_state_spec"]["weight"]["n_bits"] == 3


def test_a_job_whose_model_came_with_it_says_so_when_it_is_run_again(server, look, small):
    job_id = server.submit(small.read_bytes(), "form.safetensors")
    page = look(server)
    page.goto(f"/#/new?job={job_id}")
    message = "The model of that job, form.safetensors, is no longer stored"
    expect(page.get_by_text(message)).to_be_visible()
    expect(page.get_by_role("textbox", name="Config")).to_be_visible()
    expect(submit_button(page)).to_be_disabled()


def test_a_model_is_shown_with_its_label_and_deleted(server, look, another):
    with Client(str(server.http.base_url)) as client:
        model = client.upload(another, label="<b>nightly</b>")
    page = look(server)
    page.goto("/#/models")
    row = page.get_by_role("listitem").filter(has_text="<b>nightly</b>")
    expect(row).to_contain_text("another.safetensors")
    row.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Go back").click()
    assert server.http.get(f"/v1/models/{model.id}").is_success
    row.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete the model").click()
    expect(row).to_have_count(0)
    assert server.http.get(f"/v1/models/{model.id}").status_code == 404
