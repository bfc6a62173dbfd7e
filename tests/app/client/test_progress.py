"""Progress bars: in terminals alone, and gone in the end."""

import io

import pytest
from rich.console import Console

from palettery.app.client import progress as bars


@pytest.mark.parametrize("is_terminal", [True, False])
def test_bar_is_shown_in_terminals_alone(monkeypatch, is_terminal):
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=is_terminal, force_interactive=is_terminal)
    monkeypatch.setattr(bars, "CONSOLE", console)
    with bars.progress("sending") as advance:
        advance(1_000, 2_000)
        advance(2_000, 2_000)
    assert ("sending" in shown.getvalue()) == is_terminal


def test_stages_have_their_names(monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr(bars, "CONSOLE", Console(file=shown, force_terminal=True))
    with bars.stage_progress() as advance:
        advance("reading", 1, 2)
        advance("sending", 1, 2)
    assert "sending" in shown.getvalue()
