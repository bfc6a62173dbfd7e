"""Processes of their own for what strangers send: no network, no files but their own, limits."""

from app.sandbox.confinement import confine, end_with_parent
from app.sandbox.installation import readable, writable

__all__ = ["confine", "end_with_parent", "readable", "writable"]
