"""Version of Palettery, as results record it."""

from importlib.metadata import version

VERSION = version("palettery")
SOFTWARE = {"palettery": VERSION}
"""Name -> version, as reports and artifacts state it."""
