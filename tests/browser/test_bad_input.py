"""Errors are shown beside the field they are about, in the words of the server."""

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Page, expect
from safetensors.numpy import save, save_file

from tests.browser.conftest import SLOW
from tests.integration.embedded import serving

pytestmark = pytest.mark.heavy

ADMIN_KEY = "fedcba9876543210" * 2
EVIL = "<img src=x onerror=window.hit=1><b>bold</b>"


def drop(page: Page, name: str, data: bytes) -> None:
    """Drop a file onto the page, as a mouse does."""
    moved = page.evaluate_handle(
        "([name, bytes]) => { const moved = new DataTransfer();"
        " moved.items.add(new File([new Uint8Array(bytes)], name)); return moved; }",
        [name, list(data)],
    )
    page.locator(".dropzone").dispatch_event("drop", {"dataTransfer": moved})


def test_a_server_that_is_away_is_waited_for(own, look, slow):
    page = look(own)
    page.goto("/")
    job_id = own.submit(slow.read_bytes(), "slow.safetensors", config=SLOW)
    row = page.get_by_role("listitem").filter(has_text="slow.safetensors")
    expect(row.get_by_text("running", exact=True)).to_be_visible()
    own.kill_all()
    away = page.get_by_role("alert").filter(has_text="reconnects automatically")
    expect(away).to_be_visible()
    page.get_by_role("link", name="Service").click()
    expect(page.get_by_role("heading", name="This page cannot be shown")).to_be_visible()
    own.start()
    expect(away).to_be_hidden()
    expect(page.get_by_role("heading", name="Service", exact=True)).to_be_visible()
    page.get_by_role("link", name="Jobs").click()
    own.http.post(f"/v1/jobs/{job_id}/cancel").raise_for_status()
    expect(row.get_by_text("cancelled", exact=True)).to_be_visible()


def test_the_list_lives_on_after_a_restart(own, look, small):
    page = look(own)
    page.goto("/")
    expect(page.get_by_role("link", name="Start the first job")).to_be_visible()
    own.kill_all()
    expect(page.get_by_text("reconnects automatically")).to_be_visible()
    own.start()
    own.submit(small.read_bytes(), "small.safetensors")
    row = page.get_by_role("listitem").filter(has_text="small.safetensors")
    expect(row.get_by_text("succeeded", exact=True)).to_be_visible()


def test_a_key_is_asked_for_and_kept_in_the_tab_alone(tmp_path, look, small):
    with serving(tmp_path / "data", PALETTERY_ADMIN_KEY=ADMIN_KEY) as server:
        server.http.headers["Authorization"] = f"Bearer {ADMIN_KEY}"
        made = {"owner": "ada", "name": "browser"}
        secret = server.http.post("/v1/keys", json=made).raise_for_status().json()["secret"]
        page = look(server)
        page.goto("/")
        dialog = page.get_by_role("dialog")
        expect(dialog).to_contain_text("This server requires a key")
        dialog.get_by_label("API key").fill("wrong" * 8)
        dialog.get_by_role("button", name="Use this key").click()
        expect(dialog.get_by_role("alert").last).to_contain_text("key")
        dialog.get_by_label("API key").fill(secret)
        dialog.get_by_label("API key").press("Enter")
        expect(page.get_by_role("link", name="Start the first job")).to_be_visible()

        page.get_by_role("link", name="New job").last.click()
        page.get_by_label("Drop model files here").set_input_files(small)
        page.get_by_role("button", name="Submit the job").click()
        with page.expect_download() as arrived:
            page.get_by_role("button", name="model.safetensors").click()
        assert arrived.value.path().stat().st_size > 1_000
        assert page.evaluate("Object.values(sessionStorage)").count(secret) == 1
        assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]

        page.get_by_role("button", name="Forget key").click()
        expect(page.get_by_role("dialog")).to_contain_text("This server requires a key")
        page.keyboard.press("Escape")
        expect(page.get_by_role("alert").filter(has_text="key")).to_be_visible()


def test_a_job_that_vanished_is_said_to_be_gone(server, look, small):
    page = look(server)
    page.goto("/#/jobs/00000000-0000-0000-0000-000000000000")
    shown = server.http.get("/v1/jobs/00000000-0000-0000-0000-000000000000").json()["detail"]
    expect(page.get_by_role("alert")).to_contain_text(shown)

    job_id = server.submit(small.read_bytes(), "vanishing.safetensors")
    server.succeeded(job_id)
    page.goto(f"/#/jobs/{job_id}")
    expect(page.get_by_role("heading", name="Result")).to_be_visible()
    server.http.delete(f"/v1/jobs/{job_id}").raise_for_status()
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Delete the job").click()
    expect(page.get_by_role("alert").filter(has_text=job_id)).to_be_visible()


def test_a_file_that_is_refused_is_refused_at_its_place(server, look):
    page = look(server)
    page.goto("/#/new")
    drop(page, "model.pickle", b"\x80\x04 no model at all")
    refusal = page.locator(".drop").get_by_role("alert")
    expect(refusal).to_contain_text("model.pickle")
    expect(refusal.get_by_role("button", name="Try again")).to_have_count(0)


def test_ten_errors_are_shown_each_at_its_line(server, look):
    page = look(server)
    page.goto("/#/new")
    page.get_by_text("Write one", exact=True).click()
    page.get_by_text("JSON", exact=True).click()
    faults = {
        f"layer.{number}": {"op_state_spec": {"weight": {"n_bits": 5}}} for number in range(10)
    }
    page.get_by_role("textbox", name="Config").fill(
        json.dumps({"global_config": None, "module_name_configs": faults}, indent=1)
    )
    shown = page.locator(".faults li")
    expect(shown).to_have_count(10)
    expect(page.locator(".gutter .bad")).to_have_count(10)
    expect(shown.first).to_contain_text("/module_name_configs/layer.0/op_state_spec/weight/n_bits")


def test_names_with_markup_are_text(server, look):
    rng = np.random.default_rng(1)
    name = f"{EVIL}.weight"
    body = save({name: rng.normal(size=(64, 64)).astype(np.float32)})
    job_id = server.submit(body, "<b onclick=x>m.safetensors")
    server.succeeded(job_id)
    page = look(server)
    for route in (
        "",
        f"#/jobs/{job_id}",
        f"#/jobs/{job_id}/tensors/{name.replace('/', '%2F')}",
        "#/new",
    ):
        page.goto("/" + route)
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        if "jobs" in route:
            chart = page.get_by_role("img", name=re.compile("has the same numbers")).first
            chart.scroll_into_view_if_needed()
            expect(chart.locator(".main-svg").first).to_be_visible()
        expect(page.locator("body")).to_contain_text(
            "<b onclick=x>m.safetensors" if route != "#/new" else "New job"
        )
        assert page.evaluate("window.hit") is None
        assert page.locator("img[src=x], .view b").count() == 0


def parts_sent(page: Page) -> list[str]:
    """Addresses of the parts that the page sends from now on."""
    sent: list[str] = []
    page.on("request", lambda each: sent.append(each.url) if each.method == "PUT" else None)
    return sent


def test_an_upload_goes_on_after_a_reload(server, look, tmp_path):
    rng = np.random.default_rng(2)
    path = tmp_path / "three_parts.safetensors"
    save_file({"a.weight": rng.normal(size=(2048, 2560)).astype(np.float32)}, path)
    page = look(server)
    page.goto("/#/new")
    page.route("**/parts/2", lambda _: None)  # never gets there
    with page.expect_response(lambda each: "/parts/" in each.url and each.ok):
        page.get_by_label("Drop model files here").set_input_files(path)
    server.wait_until(lambda: received(server, path.name) == 2, "two parts are there")
    page.reload()  # before the route is opened, or what waits there would get through
    page.unroute("**/parts/2")
    page.get_by_text(re.compile(r"\d+ uploads? interrupted")).click()  # other tests leave some
    expect(page.get_by_text(path.name)).to_be_visible()
    sent = parts_sent(page)
    page.get_by_label("Drop model files here").set_input_files(path)
    expect(page.get_by_role("status").get_by_text(f"{path.name}: 1 tensor")).to_be_visible()
    assert [each.rsplit("/", 1)[1] for each in sent] == ["2"]


def received(server, name: str) -> int:
    """Parts that the server has of the open upload of a file."""
    for each in server.http.get("/v1/uploads").json()["items"]:
        if each["state"] == "open" and each["name"] == name:
            parts = server.http.get(f"/v1/uploads/{each['id']}").json()["parts"]
            return sum(part["is_received"] for part in parts)
    return 0


def test_digests_are_those_of_everybody(server, look):
    page = look(server)
    page.goto("/")
    for size in (0, 1, 55, 56, 63, 64, 65, 119, 1_000_003):
        data = np.random.default_rng(size).bytes(size)
        digest = page.evaluate(
            "async (bytes) => { const { Sha256, hex } = await import('/sha256.js');"
            " const data = new Uint8Array(bytes); const cut = Math.floor(data.length / 3);"
            " const hash = new Sha256().update(data.subarray(0, cut)).update(data.subarray(cut));"
            " return hex(hash.digest()); }",
            list(data),
        )
        assert digest == hashlib.sha256(data).hexdigest(), size


def test_nothing_but_the_api_is_asked(server, look, small):
    urls: list[str] = []
    page = look(server)
    page.on("request", lambda each: urls.append(each.url))
    for route in ("", "#/new", "#/compare", "#/service"):
        page.goto("/" + route)
        expect(page.get_by_role("heading", level=1)).to_be_visible()
    base = str(server.http.base_url)
    own = re.compile(r"/(v1/.*|livez|[a-z0-9]+\.(js|css|svg)|assets/plotly\.min\.js)?")
    assert all(each.startswith(base) for each in urls)
    assert [
        each
        for each in urls
        if not own.fullmatch(each.removeprefix(base.rstrip("/")).split("?")[0])
    ] == []
    assert small.exists()


def test_files_of_the_page_hold_neither_markup_nor_outside_addresses():
    folder = Path("app/dashboard")
    for path in folder.glob("*.js"):
        text = path.read_text()
        assert "innerHTML" not in text
        assert "insertAdjacentHTML" not in text
        assert re.findall(r"https?://[^\"'`]", text) == []
