"""What lies in a report's page, as a browser reads it."""

import json
from html.parser import HTMLParser


class _Scripts(HTMLParser):
    """Texts of the script elements, with their attributes."""

    def __init__(self):
        super().__init__()
        self.elements = []
        self._inside = False

    def handle_starttag(self, tag, attrs):
        self._inside = tag == "script"
        if self._inside:
            self.elements.append((dict(attrs), []))

    def handle_endtag(self, tag):  # noqa: ARG002 - the name is HTMLParser's
        self._inside = False

    def handle_data(self, data):
        if self._inside:
            self.elements[-1][1].append(data)


def scripts_of(page):
    """Attributes and text of every script of a page."""
    parser = _Scripts()
    parser.feed(page.decode())
    parser.close()
    return [(attributes, "".join(text)) for attributes, text in parser.elements]


def documents_of(page):
    """The numbers of a page: id -> JSON."""
    return {
        attributes["id"]: json.loads(text)
        for attributes, text in scripts_of(page)
        if attributes.get("type") == "application/json"
    }
