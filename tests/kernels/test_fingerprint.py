"""The digest of the sources that decide about results."""

import shutil
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from palettery import kernels


def digest(folder):
    """Return the fingerprint of a copy of the sources."""
    spec = spec_from_file_location("copied", folder / "fingerprint.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.fingerprint()


def test_the_fingerprint_follows_the_sources(tmp_path):
    copy, ignored = tmp_path / "kernels", shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(kernels.__file__).parent, copy, ignore=ignored)
    same = digest(copy)
    assert len(same) == 16
    assert same == kernels.fingerprint()
    changed = copy / "scalar" / "dtype_refinement.py"
    changed.write_text(changed.read_text() + "\n")
    other = digest(copy)
    assert len(other) == 16
    assert other != same
