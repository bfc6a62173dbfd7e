"""A standalone HTML report: the page's modules, plotly.js and the data in one file."""

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
"""Content-Security-Policy when served: the report has no origin, so it cannot use the API."""
Document = Iterable[bytes | memoryview]
"""A JSON document in pieces."""
_IMPORT = re.compile(r'from "\./([a-z0-9_]+)\.js"')
_BARE = r'from "palettery/\1.js"'
"""A module in a data: URL has no relative imports; an import map replaces them."""
_MARKS = re.compile(r"<!--(style|plotly|data|modules)-->")


def report_page(documents: Mapping[str, Document]) -> Iterator[bytes]:
    """Yield the page in pieces; `documents` are keyed by the ids that `report.js` looks up."""
    for index, part in enumerate(_MARKS.split(_read("report.html"))):
        if index % 2 == 0:
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
        for piece in pieces:  # in JSON, < occurs only in strings
            yield bytes(piece).replace(b"<", b"\\u003c")
        yield b"</script>\n"


@cache
def _plotly() -> bytes:
    """Return plotly.js as a script element, in memory once for all requests."""
    return b"<script>" + PLOTLY.read_bytes().replace(b"</script", b"<\\/script") + b"</script>"


@cache
def _modules() -> bytes:
    """Return `report.js` and an import map of its imports as data: URLs."""
    modules: dict[str, str] = {}
    _collect("report", modules)
    main = modules.pop("report")
    imports = {f"palettery/{name}.js": _data_url(text) for name, text in sorted(modules.items())}
    import_map = f'<script type="importmap">{json.dumps({"imports": imports})}</script>'
    return f'{import_map}\n<script type="module">{main}</script>'.encode()


def _collect(name: str, modules: dict[str, str]) -> None:
    """Add a module and its imports to `modules`, with rewritten imports."""
    if name in modules:
        return
    text = _read(f"{name}.js")
    modules[name] = _IMPORT.sub(_BARE, text)
    for imported in _IMPORT.findall(text):
        _collect(imported, modules)


def _data_url(text: str) -> str:
    return f"data:text/javascript;base64,{base64.b64encode(text.encode()).decode()}"


@cache
def _read(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")
