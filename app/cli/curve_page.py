"""The curve of a choice, as JSON and as a page with plotly.js in it."""

import json
from collections.abc import Iterator
from html import escape
from typing import Any

from palettery.app.dashboard.files import PLOTLY
from palettery.schemas.targets import Allocation

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Size and expected error</title>
<style>body {{ font: 16px system-ui, sans-serif; margin: 2rem auto; max-width: 70rem }}</style>
<h1>Size and expected error</h1>
<p>{summary}</p>
<div id="curve" role="img" aria-label="Expected error by size of the artifact"></div>
<script>
"""
_END = """</script>
<script type="application/json" id="figure">{figure}</script>
<script>
const figure = JSON.parse(document.getElementById("figure").textContent);
Plotly.newPlot("curve", figure.data, figure.layout, {{ responsive: true }});
</script>
</html>
"""


def curve_json(allocation: Allocation) -> Iterator[bytes]:
    """Yield the points of a curve, the choice on it, and whether quality is a guess."""
    fields = {"curve", "size_bytes", "target_bytes", "error", "weighted", "notes"}
    yield allocation.model_dump_json(include=fields, indent=1).encode() + b"\n"


def curve_page(allocation: Allocation) -> Iterator[bytes]:
    """Yield a page of its own with the curve and the choice on it."""
    notes = " ".join(f"Note: {note}." for note in allocation.notes)
    size = f"{allocation.size_bytes:,} bytes, expected error {allocation.error:.4g}."
    yield _PAGE.format(summary=escape(f"Chosen: {size} {notes}")).encode()
    yield PLOTLY.read_bytes().replace(b"</script", b"<\\/script")
    figure = json.dumps(_figure(allocation)).replace("<", "\\u003c")
    yield _END.format(figure=figure).encode()


def _figure(allocation: Allocation) -> dict[str, Any]:
    points = [point for point in allocation.curve if point.error > 0]
    kind = "weighted squared error" if allocation.weighted else "sum of relative errors: a guess"
    curve = {
        "x": [point.size_bytes / 1e6 for point in points],
        "y": [point.error for point in points],
        "name": "least error",
        "mode": "lines+markers",
        "marker": {"size": 4},
    }
    chosen = {
        "x": [allocation.size_bytes / 1e6],
        "y": [allocation.error],
        "name": "chosen",
        "mode": "markers",
        "marker": {"size": 12, "symbol": "diamond"},
    }
    layout = {
        "xaxis": {"title": {"text": "size, MB"}},
        "yaxis": {"title": {"text": f"expected error ({kind})"}, "type": "log"},
        "height": 520,
    }
    return {"data": [curve, chosen], "layout": layout}
