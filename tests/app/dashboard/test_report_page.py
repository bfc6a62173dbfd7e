"""The report as a page of its own: whole, and with no way out of its texts."""

import base64
import json
import re

from palettery.app.dashboard.files import HERE
from palettery.app.dashboard.report_page import report_page
from tests.app.report_documents import documents_of, scripts_of

HOSTILE = '</script><script>alert(1)</script><!-- <img src=x onerror="alert(2)">'


def page(**documents):
    pieces = {name: [json.dumps(each).encode()] for name, each in documents.items()}
    return b"".join(report_page(pieces))


def test_numbers_are_read_back_as_they_were():
    documents = {
        "report": {"tensors": [{"name": "größe", "sse": 0.1}]},
        "statistics": [1, 2],
        "job": {},
    }
    assert documents_of(page(**documents)) == documents


def test_names_end_no_element():
    html = page(report={"tensors": [{"name": HOSTILE}]}, job={"model_name": HOSTILE})
    assert documents_of(html)["report"]["tensors"][0]["name"] == HOSTILE
    assert len(scripts_of(html)) == len(scripts_of(page(report={}, job={})))
    assert b"alert(1)</script>" not in html


def test_pieces_may_end_anywhere():
    text = json.dumps({"name": HOSTILE}).encode()
    pieces = [text[place : place + 1] for place in range(len(text))]
    assert documents_of(b"".join(report_page({"report": pieces})))["report"] == {"name": HOSTILE}


def test_nothing_is_fetched():
    html = page(report={})
    assert not re.search(rb"<(?:script|img|iframe|link)[^>]+(?:src|href)\s*=", html)
    policy = html.split(b"</head>")[0]
    assert b"http:" not in policy
    assert b"https:" not in policy


def test_every_import_has_its_module():
    scripts = scripts_of(page(report={}))
    (table,) = (json.loads(text) for kind, text in scripts if kind.get("type") == "importmap")
    (main,) = (text for kind, text in scripts if kind.get("type") == "module")
    texts = [main]
    for address in table["imports"].values():
        kind, _, body = address.partition(",")
        assert kind == "data:text/javascript;base64"
        texts.append(base64.b64decode(body).decode())
    imported = {name for text in texts for name in re.findall(r'from "([^"]+)"', text)}
    assert imported == table["imports"].keys()
    assert "palettery/charts.js" in imported
    assert (HERE / "report.js").read_text().count("import ") == main.count("import ")
