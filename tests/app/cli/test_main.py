import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from palettery.app.version import VERSION
from palettery.schemas.report import Report
from tests.app.report_documents import documents_of

PALETTIZED = {"encoder.0.weight", "encoder.1.weight", "stem.weight"}


def test_compress_writes_an_artifact_that_plain_safetensors_opens(
    palettery, model, arrays, tmp_path
):
    out = tmp_path / "out.safetensors"
    code, output, _ = palettery("compress", model, "--preset", "w4", "-o", out)
    assert code == 0
    assert "encoder.0.weight" in output
    stored = load_file(out)
    for name, array in arrays.items():
        if name in PALETTIZED:
            assert {f"{name}.indices", f"{name}.lut"} <= stored.keys()
            assert stored[f"{name}.indices"].nbytes == array.size // 2
        else:
            assert stored[name].tobytes() == array.tobytes()


def test_compress_leaves_nothing_but_its_output(palettery, model, tmp_path):
    before = set(tmp_path.iterdir())
    palettery("compress", model, "--preset", "w4", "-o", tmp_path / "out")
    assert set(tmp_path.iterdir()) - before == {tmp_path / "out"}


def test_the_same_input_gives_the_same_bytes(palettery, model, tmp_path):
    for name in ("one", "two"):
        palettery("compress", model, "--preset", "w6", "-o", tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_report_accounts_for_every_tensor(palettery, model, arrays, tmp_path):
    palettery(
        "compress", model, "--preset", "w4", "-o", tmp_path / "out", "--report", tmp_path / "r.json"
    )
    report = Report.model_validate_json((tmp_path / "r.json").read_bytes())
    assert {tensor.name for tensor in report.tensors} == arrays.keys()
    for tensor in report.tensors:
        assert (tensor.reason is None) == (tensor.action == "palettized")
    assert {tensor.name for tensor in report.tensors if tensor.spec} == PALETTIZED
    assert report.size_before_bytes == sum(array.nbytes for array in arrays.values())


def test_report_is_a_page_where_its_name_says_so(palettery, model, arrays, tmp_path):
    page = tmp_path / "r.html"
    code, _, output = palettery(
        "compress", model, "--preset", "w4", "-o", tmp_path / "out", "--report", page
    )
    assert code == 0, output
    embedded = documents_of(page.read_bytes())
    assert {tensor["name"] for tensor in embedded["report"]["tensors"]} == arrays.keys()
    assert {tensor["name"] for tensor in embedded["statistics"]} == PALETTIZED
    assert set(tmp_path.iterdir()) == {model, tmp_path / "out", page}


def test_reported_error_is_the_error_of_the_decompressed_weights(
    palettery, model, arrays, tmp_path
):
    out, dense, report = tmp_path / "out", tmp_path / "dense", tmp_path / "r.json"
    palettery("compress", model, "--preset", "w4", "-o", out, "--report", report)
    assert palettery("decompress", out, "-o", dense)[0] == 0
    decoded = load_file(dense)
    assert decoded.keys() == arrays.keys()
    for tensor in Report.model_validate_json(report.read_bytes()).tensors:
        original = arrays[tensor.name].astype(np.float64)
        error = decoded[tensor.name].astype(np.float64) - original
        assert (error**2).sum() == pytest.approx(tensor.sse, rel=1e-6)
        assert np.abs(error).max() == pytest.approx(tensor.max_error, rel=1e-6)
        assert decoded[tensor.name].dtype == arrays[tensor.name].dtype


def test_a_tensor_with_nan_is_kept_and_said_so(palettery, arrays, tmp_path):
    broken = {name: array.copy() for name, array in arrays.items()}
    broken["encoder.0.weight"][3, 4] = np.nan
    save_file(broken, tmp_path / "m.safetensors")
    out, report = tmp_path / "out", tmp_path / "r.json"
    code, _, _ = palettery(
        "compress", tmp_path / "m.safetensors", "--preset", "w4", "-o", out, "--report", report
    )
    assert code == 0
    output = {t.name: t for t in Report.model_validate_json(report.read_bytes()).tensors}
    assert output["encoder.0.weight"].action == "kept"
    assert "not finite" in output["encoder.0.weight"].reason
    kept = load_file(out)["encoder.0.weight"]
    assert kept.tobytes() == broken["encoder.0.weight"].tobytes()


def test_plan_as_json(palettery, model, arrays):
    code, output, _ = palettery("plan", model, "--preset", "w4", "--json")
    assert code == 0
    plan = json.loads(output)
    assert {tensor["name"] for tensor in plan["tensors"]} == arrays.keys()
    chosen = {t["name"]: t for t in plan["tensors"] if t["action"] == "palettize"}
    assert chosen.keys() == PALETTIZED
    assert chosen["stem.weight"]["spec"]["n_bits"] == 4
    assert chosen["stem.weight"]["rule"] == 'global_config.op_state_spec["weight"]'
    assert plan["unmatched"] == []


def test_predicted_bytes_are_the_bytes_written(palettery, model, tmp_path):
    plan = json.loads(palettery("plan", model, "--preset", "w6", "--json")[1])
    palettery(
        "compress", model, "--preset", "w6", "-o", tmp_path / "out", "--report", tmp_path / "r.json"
    )
    report = Report.model_validate_json((tmp_path / "r.json").read_bytes())
    predicted = {tensor["name"]: tensor["predicted_bytes"] for tensor in plan["tensors"]}
    assert {t.name: t.size_after_bytes for t in report.tensors} == predicted


def test_inspect_tells_what_an_artifact_holds(palettery, model, tmp_path):
    palettery("compress", model, "--preset", "w4", "-o", tmp_path / "out")
    code, output, _ = palettery("inspect", tmp_path / "out", "--json")
    summary = json.loads(output)
    assert code == 0
    assert {stored["name"] for stored in summary["palettized"]} == PALETTIZED
    assert "steps" in summary["kept"]


def not_safetensors(path: Path) -> None:
    path.write_bytes(b"hello, this is no model file at all")


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def a_pickle(path: Path) -> None:
    path.write_bytes(b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x07weights\x94.")


@pytest.mark.parametrize("damage", [not_safetensors, truncated, empty, a_pickle])
def test_a_bad_model_is_one_clear_line(palettery, model, tmp_path, damage):
    damage(model)
    before = set(tmp_path.iterdir())
    code, output, error = palettery("compress", model, "--preset", "w4", "-o", tmp_path / "out")
    assert (code, output) == (2, "")
    assert error.startswith("palettery: ")
    assert error.count("\n") == 1
    assert model.name in error
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ('{"global_confg": null}', "global_config"),
        ('{"global_config": {"op_state_spec": {"weight": {"n_bits": 5}}}}', "1, 2, 3, 4, 6, 8"),
        ("global_config: {op_state_spec: {weight: {cluster_dim: 0}}}", "cluster_dim"),
        ("global_config: [", "YAML"),
    ],
)
def test_a_bad_config_names_the_field_and_what_is_allowed(
    palettery, model, tmp_path, config, expected
):
    (tmp_path / "c.yaml").write_text(config)
    code, _, error = palettery("plan", model, "--config", tmp_path / "c.yaml")
    assert code == 2
    assert expected in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--preset", "w5"], "w4, w6, w8"),
        ([], "neither"),
        (["--preset", "w4", "--config", "/nowhere/c.yaml"], "/nowhere/c.yaml"),
    ],
)
def test_config_or_preset(palettery, model, words, expected):
    code, _, error = palettery("plan", model, *words)
    assert code == 2
    assert expected in error


def test_missing_model_and_missing_folder(palettery, model, tmp_path):
    code, _, error = palettery("plan", tmp_path / "none", "--preset", "w4")
    assert (code, "none" in error) == (2, True)
    out = tmp_path / "no" / "such" / "out"
    code, _, error = palettery("compress", model, "--preset", "w4", "-o", out)
    assert (code, "there is no folder" in error) == (2, True)


def test_the_model_is_never_overwritten(palettery, model):
    before = model.read_bytes()
    code, _, error = palettery("compress", model, "--preset", "w4", "-o", model)
    assert (code, "a file of the model" in error) == (2, True)
    assert model.read_bytes() == before


def test_a_name_that_the_artifact_would_need_twice(palettery, tmp_path):
    arrays = {
        "a.weight": np.ones((8, 8), np.float32),
        "a.weight.lut": np.arange(4, dtype=np.int32),
    }
    save_file(arrays, tmp_path / "m.safetensors")
    _, output, _ = palettery("plan", tmp_path / "m.safetensors", "--preset", "w4", "--json")
    tensors = {tensor["name"]: tensor for tensor in json.loads(output)["tensors"]}
    assert tensors["a.weight"]["action"] == "keep"
    assert "a.weight.lut" in tensors["a.weight"]["reason"]
    out = tmp_path / "out"
    assert palettery("compress", tmp_path / "m.safetensors", "--preset", "w4", "-o", out)[0] == 0
    np.testing.assert_array_equal(load_file(out)["a.weight.lut"], arrays["a.weight.lut"])


def test_decompress_of_what_is_no_artifact(palettery, model, tmp_path):
    code, _, error = palettery("decompress", model, "-o", tmp_path / "dense")
    assert (code, "not a Palettery artifact" in error) == (2, True)


def test_a_server_that_is_away_is_said_to_be(palettery):
    code, _, error = palettery("jobs", "--server", "http://127.0.0.1:9")
    assert (code, "palettery serve" in error) == (1, True)


def test_version(palettery):
    assert palettery("--version") == (0, f"{VERSION}\n", "")
    assert palettery("--version", "jobs") == (0, f"{VERSION}\n", "")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("export", "a", "-o", "b", "--to", "tflite"), "'--to': 'tflite' is not one of 'dense'"),
        (("keys", "create", "--scope", "all"), "'--scope': 'all' is not one of 'read'"),
    ],
)
def test_a_choice_that_is_none(palettery, words, expected):
    code, _, error = palettery(*words)
    assert code == 2
    assert f"Invalid value for {expected}" in " ".join(error.split())


@pytest.mark.parametrize("words", [["--help"], ["plan", "--help"]])
def test_help_imports_nothing_heavy(words):
    program = (
        f"import sys; sys.argv = {['palettery', *words]!r}\n"
        "from palettery.app.cli.main import main\n"
    )
    check = (
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'numba', 'numpy', 'dask', 'fastapi'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", program + check], check=True, capture_output=True)


def test_compress_does_not_import_torch(model, tmp_path):
    words = ["palettery", "compress", str(model), "--preset", "w4", "-o", str(tmp_path / "out")]
    program = (
        f"import sys; sys.argv = {words!r}\nfrom palettery.app.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit as ended:\n    assert not ended.code\n"
        "heavy = {'torch', 'distributed', 'fastapi'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
