"""What a sandboxed process may read, and its environment."""

from pathlib import Path

import numpy as np

import palettery
from palettery.app.sandbox.allowed_paths import PACKAGES, environment, readable, writable

PACKAGE = Path(palettery.__file__).parent


def covers(paths, path):
    return any(path.is_relative_to(allowed) for allowed in paths)


def test_installation_is_readable_and_the_rest_is_not(tmp_path):
    paths = readable()
    for path in (PACKAGE, Path(np.__file__), *((PACKAGE / name).resolve() for name in PACKAGES)):
        assert covers(paths, path)
    for path in (tmp_path, Path.home() / ".ssh", Path("/etc/passwd"), Path("/proc/self/environ")):
        assert not covers(paths, path)
    assert PACKAGE.parent not in paths, "a data folder may lie there"
    assert [*map(str, writable())] == ["/dev/null"]


def test_environment_has_no_secrets_and_keeps_files_in_the_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("PALETTERY_ADMIN_KEY", "secret")
    monkeypatch.setenv("NUMBA_CACHE_DIR", "/compiled")
    made = environment(tmp_path, EXTRA="1")
    assert "secret" not in made.values()
    assert made["HOME"] == made["TMPDIR"] == str(tmp_path)
    assert made["NUMBA_CACHE_DIR"].startswith(str(tmp_path))
    assert ("/compiled" in made.values(), made["EXTRA"]) == (True, "1")
