"""What is logged about missing protections when a process starts."""

import pytest

from palettery.app.sandbox import startup_log
from palettery.app.sandbox.startup_log import log_missing_protections
from palettery.app.settings import Sandbox


@pytest.mark.parametrize(
    ("required", "consequence"),
    [(True, "configs are refused"), (False, "can attack this machine"), (None, "can attack")],
)
def test_every_missing_protection_is_one_warning(monkeypatch, caplog, required, consequence):
    monkeypatch.setattr(startup_log, "missing_protections", lambda: ["files are open", "so is TCP"])
    log_missing_protections(Sandbox(required=required))
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    first, second = caplog.messages
    assert first.startswith("files are open: ")
    assert second.startswith("so is TCP: ")
    assert consequence in first


def test_nothing_is_logged_where_nothing_is_missing(monkeypatch, caplog):
    monkeypatch.setattr(startup_log, "missing_protections", list)
    log_missing_protections(Sandbox(required=True))
    assert caplog.messages == []
