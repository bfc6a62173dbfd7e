"""The most of everything whose size the author of a config document chooses."""

CONFIG_BYTES = 8 << 20
"""Of one document."""
LEVELS = 64
"""Of nesting."""
VALUES = 1_000_000
"""In one document, every YAML alias counted as what it stands for."""
TEXT_LENGTH = 10_000
"""Characters of one key or value."""
FAULTS = 1_000
"""Told of one document."""
COUNT = 2**63 - 1
"""Of any whole number; what a signed 64-bit integer holds."""
