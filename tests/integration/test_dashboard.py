"""The page's files over HTTP: what a browser gets, what it may do with it, and what nobody gets."""

import gzip
import hashlib
import re
from importlib.resources import files

import pytest

HTML = {"Accept": "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"}
PLOTLY = "/assets/plotly.min.js"


def get(server, path, encodings="identity", **headers):
    request = HTML | {"Accept-Encoding": encodings} | headers
    return server.http.get(path, headers=request)


def test_browser_gets_the_page_and_all_that_it_names(embedded):
    page = get(embedded, "/")
    assert page.status_code == 200, page.text
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    named = [f"/{name}" for name in re.findall(r'(?:href|src)="(\w[^"]+\.[a-z]+)"', page.text)]
    assert any(name.endswith(".js") for name in named)
    seen, kinds = set(), {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
    while named:
        name = named.pop()
        answer = get(embedded, name)
        assert answer.status_code == 200, name
        kind = kinds["." + name.rpartition(".")[2]]
        assert answer.headers["Content-Type"].startswith(kind), name
        seen.add(name)
        imported = re.findall(r'from "\.(/[^"]+)"|import\("\.(/[^"]+)"\)', answer.text)
        named += {one or other for one, other in imported} - seen
    assert len(seen) > 5


def test_others_find_the_reference_at_the_root(embedded):
    for accept in ("*/*", "application/json"):
        answer = get(embedded, "/", Accept=accept)
        assert (answer.status_code, answer.headers["Location"]) == (307, "/docs")
        assert "Accept" in answer.headers["Vary"]


@pytest.mark.parametrize("path", ["/", "/main.js", PLOTLY])
def test_what_a_browser_may_do_with_it(embedded, path):
    headers = get(embedded, path).headers
    policy = dict(each.split(" ", 1) for each in headers["Content-Security-Policy"].split("; "))
    assert policy.pop("img-src") == "'self' data: blob:"
    for what in ("default-src", "base-uri", "form-action", "frame-ancestors"):
        assert policy.pop(what) == "'none'", what
    assert policy == dict.fromkeys(("script-src", "connect-src", "font-src", "style-src"), "'self'")
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cache-Control"] == "no-cache"


@pytest.mark.parametrize("path", ["/", "/main.js", PLOTLY])
def test_file_that_has_not_changed_is_not_sent_again(embedded, path):
    tags = set()
    for encodings in ("identity", "gzip"):
        whole = get(embedded, path, encodings)
        tags.add(tag := whole.headers["ETag"])
        for known in (tag, f'"x", {tag}', f"W/{tag}"):
            again = get(embedded, path, encodings, **{"If-None-Match": known})
            assert (again.status_code, again.content) == (304, b"")
            assert again.headers["ETag"] == tag
            assert "Content-Security-Policy" in again.headers
        other = get(embedded, path, encodings, **{"If-None-Match": '"x"'})
        assert other.content == whole.content
    assert len(tags) == 2, "packed and plain are two things"


@pytest.mark.parametrize(
    ("encodings", "is_packed"),
    [
        ("gzip, deflate, br", True),
        ("br;q=1.0, GZIP;q=0.8", True),
        ("identity", False),
        ("gzip;q=0", False),
        ("gzip;q=0.000, br", False),
        ("xgzip", False),
    ],
)
def test_plotly_comes_out_of_its_package_packed_for_who_can_unpack(embedded, encodings, is_packed):
    plain = (files("plotly") / "package_data" / "plotly.min.js").read_bytes()
    request = HTML | {"Accept-Encoding": encodings}
    with embedded.http.stream("GET", PLOTLY, headers=request) as answer:
        sent = b"".join(answer.iter_raw())
        assert answer.headers["Vary"] == "Accept-Encoding"
        assert answer.headers.get("Content-Encoding") == ("gzip" if is_packed else None)
        assert int(answer.headers["Content-Length"]) == len(sent)
        assert answer.headers["ETag"] == f'"{hashlib.sha256(sent).hexdigest()}"'
    assert (gzip.decompress(sent) if is_packed else sent) == plain
    assert not is_packed or len(sent) < len(plain) / 3


@pytest.mark.parametrize(
    "path",
    [
        "/endpoints.py",
        "/__init__.py",
        "/nothing.js",
        "/main.js.map",
        "/..%2Fmain.py",
        "/..%2Fdashboard%2Fmain.js",
        "/%00.js",
        "/%ff.js",
        f"/{'x' * 5000}.js",
        "/assets/other.js",
        "/.js",
    ],
)
def test_nothing_else_is_sent(embedded, path):
    answer = get(embedded, path)
    assert answer.status_code == 404, path
    assert answer.json()["code"] == "not_found"
