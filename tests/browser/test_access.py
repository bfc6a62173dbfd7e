"""Every view, in light and dark, wide and narrow: no serious barrier; pictures to look at."""

from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.browser.conftest import MINILM, NARROW, WIDE
from tests.spanning import pairwise

pytestmark = pytest.mark.heavy

SHOTS = Path(".cache/screenshots")
VIEWS = ["jobs", "new", "job", "tensor", "compare", "service"]
CHARTS = {"job": 2, "tensor": 3, "compare": 2}


def shot(model: Path, view: str, scheme: str, width: dict[str, int]) -> Path:
    """Where the picture of a view lies."""
    folder = SHOTS / ("minilm" if model == MINILM.resolve() else "small")
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{view}-{scheme}-{width['width']}.png"


def address(view: str, jobs: dict[str, str], tensor: str) -> str:
    return {
        "jobs": "/",
        "new": "/#/new",
        "job": f"/#/jobs/{jobs['w4']}",
        "tensor": f"/#/jobs/{jobs['w4']}/tensors/{tensor}",
        "compare": f"/#/compare?jobs={','.join(jobs.values())}",
        "service": "/#/service",
    }[view]


def settle(page: Page, view: str) -> None:
    """Have all of a view drawn, charts and all, and open what is folded."""
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    if view == "jobs":
        expect(page.locator(".job").first).to_be_visible()
    if view == "service":
        expect(page.get_by_role("region", name="Workers")).to_be_visible()
    if view == "new":
        page.locator("select").first.select_option(index=1)
        page.get_by_text("Write one", exact=True).click()
        page.get_by_role("textbox", name="Config").fill(
            "global_config: {op_state_spec: {weight: {n_bits: 5}}}"
        )
        expect(page.locator(".faults li")).to_have_count(1)
        page.get_by_role("textbox", name="Config").fill("module_name_configs: {nothing: null}")
        expect(page.get_by_text("1 key of the config matched no tensor")).to_be_visible()
    expect(page.locator(".plot:visible")).to_have_count(CHARTS.get(view, 0))
    for plot in page.locator(".plot:visible").all():
        plot.scroll_into_view_if_needed()
        expect(plot).to_have_attribute("data-drawn", "yes")
    for summary in page.locator("summary").all()[:8]:
        if summary.is_visible():
            summary.click()
    page.evaluate("scrollTo(0, 0)")


@pytest.mark.parametrize(
    ("view", "scheme", "width"),
    [
        (VIEWS[view], ("light", "dark")[scheme], (WIDE, NARROW)[width])
        for view, scheme, width in sorted(pairwise(VIEWS, "ld", "wn"))
    ],
    ids=str,
)
def test_no_view_has_barriers(server, look, jobs, model, view, scheme, width):
    page = look(server, color_scheme=scheme, viewport=width)
    tensors = server.report(jobs["w4"])["tensors"]
    tensor = next(each["name"] for each in tensors if each["action"] == "palettized")
    page.goto(address(view, jobs, tensor))
    settle(page, view)
    page.screenshot(path=shot(model, view, scheme, width), full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= width["width"]
    violations = Axe().run(page).response["violations"]
    assert [
        (each["id"], each["impact"], [node["html"][:200] for node in each["nodes"]][:3])
        for each in violations
        if each["impact"] in ("serious", "critical")
    ] == []


def test_everything_is_reached_by_keyboard(server, look, jobs):
    page = look(server)
    page.goto("/")
    expect(page.locator(".job").first).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    row = page.locator(f"a[href='#/jobs/{jobs['w4']}']")
    for _ in range(40):
        page.keyboard.press("Tab")
        if row.evaluate("(each) => each === document.activeElement"):
            break
    assert row.evaluate("(each) => getComputedStyle(each).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    title = page.get_by_role("heading", level=1)
    expect(title).to_be_focused()
    expect(title).to_contain_text("succeeded")
