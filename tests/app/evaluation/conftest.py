import contextlib
import importlib

import pytest

from palettery.app.inference import run_model


@pytest.fixture
def in_this_process(monkeypatch):
    """Run models here: the sandbox has tests of its own, and heavy tests run models in it."""

    def run(module, request, folder, *_, **__):
        with contextlib.chdir(folder):
            return importlib.import_module(module).answer(request)

    monkeypatch.setattr(run_model, "run", run)
