"""Limits of config documents."""

MAX_CONFIG_BYTES = 8 << 20
"""Largest size of a document."""
MAX_DEPTH = 64
"""Most levels of nested mappings and lists."""
MAX_VALUES = 1_000_000
"""Most values in a document, with YAML aliases expanded."""
MAX_TEXT_LENGTH = 10_000
"""Most characters in a key or a value."""
MAX_ERRORS = 1_000
"""Most errors reported for one document."""
MAX_INT64 = 2**63 - 1
"""Largest signed 64-bit integer."""
