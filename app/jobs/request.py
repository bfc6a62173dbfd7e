"""What a form asks for, beside its files and its config."""

import re
from dataclasses import dataclass
from typing import TypeVar

from app.errors import InvalidUpload
from app.uploads.multipart import Form

Default = TypeVar("Default", int, None)

DEADLINES_S = range(1, 30 * 86_400 + 1)
PRIORITIES = range(10)
DEFAULT_PRIORITY = 5


@dataclass(frozen=True)
class Wishes:
    """How a job is to be run."""

    strict: bool
    """Refuse what cannot all be done."""
    reuse: bool
    """Take results of earlier jobs where they are the same."""
    priority: int
    deadline_s: int | None
    """Seconds from now until the job is given up; None for never."""


def wishes(form: Form) -> Wishes:
    """Read the form's fields.

    Raises:
        InvalidUpload: names the field, what it holds and what it may.
    """
    return Wishes(
        strict=_flag(form, "strict", default=False),
        reuse=_flag(form, "reuse", default=True),
        priority=_number(form, "priority", PRIORITIES, DEFAULT_PRIORITY),
        deadline_s=_number(form, "deadline_s", DEADLINES_S, None),
    )


def _flag(form: Form, name: str, *, default: bool) -> bool:
    text = form.texts.get(name, str(default).lower().encode())
    if text not in (b"true", b"false"):
        raise InvalidUpload(f"the field {name!r} is {_shown(text)}; send true or false")
    return text == b"true"


def _number(form: Form, name: str, allowed: range, default: Default) -> int | Default:
    text = form.texts.get(name)
    if text is None:
        return default
    number = int(text) if re.fullmatch(rb"\d{1,9}", text) else -1
    if number not in allowed:
        raise InvalidUpload(
            f"the field {name!r} is {_shown(text)}; send a whole number from "
            f"{allowed[0]:,} to {allowed[-1]:,}"
        )
    return number


def _shown(text: bytes) -> str:
    return repr(text[:64].decode(errors="replace"))
