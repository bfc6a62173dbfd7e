"""A report as one page that needs nothing else: the page's modules, plotly.js and the numbers."""

import base64
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache

from palettery.app.dashboard.files import HERE, PLOTLY

POLICY = (
    "sandbox allow-scripts allow-downloads allow-popups; default-src 'none'; "
    "script-src 'unsafe-inline' data:; style-src 'unsafe-inline'; img-src data: blob:"
)
"""What a browser lets it do when a server sends it: it is of no origin, so it reaches no API."""
Document = Iterable[bytes | memoryview]
"""JSON in pieces."""
_IMPORT = re.compile(r'from "\./([a-z0-9_]+)\.js"')
_BARE = r'from "palettery/\1.js"'
"""A module in a data: address has no neighbours; an import map gives it names instead."""
_MARKS = re.compile(r"<!--(style|plotly|data|modules)-->")


def report_page(documents: Mapping[str, Document]) -> Iterator[bytes]:
    """The page, piece by piece; `documents` by the ids under which `report.js` looks for them."""
    for place, part in enumerate(_MARKS.split(_read("report.html"))):
        if place % 2 == 0:
            yield part.encode()
        elif part == "style":
            yield f"<style>\n{_read('style.css')}</style>".encode()
        elif part == "plotly":
            yield _plotly()
        elif part == "modules":
            yield _modules()
        else:
            yield from _embedded(documents)


def _embedded(documents: Mapping[str, Document]) -> Iterator[bytes]:
    for name, pieces in documents.items():
        yield f'<script type="application/json" id="{name}">'.encode()
        for piece in pieces:  # in JSON, a < is in a text: no name ends the element
            yield bytes(piece).replace(b"<", b"\\u003c")
        yield b"</script>\n"


@cache
def _plotly() -> bytes:
    """What draws the charts; held once for all readers, the slow ones too."""
    return b"<script>" + PLOTLY.read_bytes().replace(b"</script", b"<\\/script") + b"</script>"


@cache
def _modules() -> bytes:
    """The modules that `report.js` imports, each at an address that holds it, and itself."""
    found: dict[str, str] = {}
    _collect("report", found)
    main = found.pop("report")
    imports = {f"palettery/{name}.js": _address(text) for name, text in sorted(found.items())}
    table = json.dumps({"imports": imports})
    return (
        f'<script type="importmap">{table}</script>\n<script type="module">{main}</script>'.encode()
    )


def _collect(name: str, found: dict[str, str]) -> None:
    if name in found:
        return
    text = _read(f"{name}.js")
    found[name] = _IMPORT.sub(_BARE, text)
    for imported in _IMPORT.findall(text):
        _collect(imported, found)


def _address(text: str) -> str:
    return f"data:text/javascript;base64,{base64.b64encode(text.encode()).decode()}"


@cache
def _read(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")
