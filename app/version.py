"""What made a result."""

from importlib.metadata import version

VERSION = version("palettery")
SOFTWARE = {"palettery": VERSION}
"""Name -> version, as reports and artifacts state it."""
