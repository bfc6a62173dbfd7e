"""Packages form layers, whose order `lint-imports` checks; no two modules form a cycle."""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FACE = [
    "AsyncClient",
    "Client",
    "DefaultTrainingSpec",
    "KMeansPalettizerConfig",
    "ModuleKMeansPalettizerConfig",
    "OpKMeansPalettizerConfig",
    "PATSchedule",
    "PaletteSettings",
    "PalettizationSpec",
    "PerGroupedChannelGranularity",
    "PerTensorGranularity",
    "QuantizationFormulation",
    "QuantizationScheme",
    "QuantizationSpec",
    "VectorKMeansConfig",
    "default_weight_palettization_spec",
    "load",
    "load_into",
    "palettize",
    "reconstruct",
]


def modules() -> dict[str, Path]:
    """Our modules by their full names."""
    paths = [
        path for folder in ("app", "schemas", "kernels") for path in (ROOT / folder).rglob("*.py")
    ]
    names = {path: ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths}
    return {f"palettery.{name}".removesuffix(".__init__"): path for path, name in names.items()}


def imported(path: Path, known: dict[str, Path]) -> set[str]:
    """Modules of ours that a module imports, wherever it does."""
    nodes = [*ast.walk(ast.parse(path.read_text()))]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in known else node.module for name in full}
    return names & known.keys()


@pytest.fixture(scope="module")
def graph():
    """Module -> those of ours that it imports."""
    known = modules()
    return {name: imported(path, known) - {name} for name, path in known.items()}


def test_no_modules_form_a_cycle(graph):
    assert len(graph) > 300
    assert "palettery.app.errors" in graph["palettery.app.settings"]
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a cycle: {error.args[1]}")


def test_no_packages_of_the_service_form_a_cycle(graph):
    packages: dict[str, set[str]] = {}
    for name, imports in graph.items():
        package = ".".join(name.split(".")[:3])
        others = {".".join(other.split(".")[:3]) for other in imports}
        packages.setdefault(package, set()).update(others - {package, "palettery.app"})
    TopologicalSorter(packages).prepare()


def test_the_public_names_work_beside_packages_that_are_called_like_ours(tmp_path):
    for name in ("app", "schemas", "kernels"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('this is not palettery')")
    program = f"from palettery import {', '.join(FACE)}\nprint({', '.join(FACE)})"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_public_names_are_these():
    import palettery

    assert sorted(dir(palettery)) == FACE
    with pytest.raises(AttributeError, match="has no attribute 'palettise'"):
        _ = palettery.palettise
