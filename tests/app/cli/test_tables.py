"""What the command line prints of plans: most bytes first, alike tensors on one line."""

import numpy as np
import pytest
from safetensors.numpy import save_file


def block(number):
    return {
        f"layers.{number}.fc.weight": (64, 32),
        f"layers.{number}.fc.bias": (64,),
        f"layers.{number}.norm.weight": (64,),
    }


@pytest.fixture
def model(tmp_path):
    shapes = {"head.weight": (320, 64), "embed.weight": (500, 64), "version": (1,)}
    for number in range(12):
        shapes |= block(number)
    arrays = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    save_file(arrays, tmp_path / "m.safetensors")
    return tmp_path / "m.safetensors"


def lines(text):
    return [line.strip() for line in text.splitlines() if line.strip()]


def test_alike_tensors_share_a_line_and_most_bytes_come_first(palettery, model):
    code, printed, _ = palettery("plan", model, "--preset", "w4")
    assert code == 0
    entries = lines(printed)
    (shared,) = [line for line in entries if line.startswith("layers.*.fc.weight")]
    (head,) = [line for line in entries if line.startswith("head.weight")]
    assert entries.index(shared) < entries.index(head)
    assert shared.split()[1:5] == ["12", "Linear,", "inferred", "4"]
    assert "98.3 kB" in shared
    assert "12 named bias 3.1 kB" in entries
    assert "12 named weight 3.1 kB" in entries
    assert "embed.weight 128.0 kB" in entries
    assert "version 4 bytes" in entries
    assert len(entries) < 25


def test_every_tensor_has_a_line_where_asked(palettery, model):
    entries = lines(palettery("plan", model, "--preset", "w4", "--all")[1])
    for number in range(12):
        for name in block(number):
            assert sum(line.startswith(f"{name} ") for line in entries) == 1


def test_alike_tensors_under_different_rules_have_their_own_lines(palettery, model, tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text(r"""
module_name_configs:
  layers\.[02]\.fc: {op_state_spec: {weight: {n_bits: 8}}}
  layers\.1\.fc: null
""")
    entries = lines(palettery("plan", model, "--config", config)[1])
    rows = [line.split() for line in entries if line.startswith("layers.") and "Linear" in line]
    assert sorted(row[1] for row in rows) == ["2", "9"]
    assert {row[row.index("bit") - 1]: row[1] for row in rows} == {"8": "2", "4": "9"}
    assert len({row[0] for row in rows}) == 2


def test_faults_of_a_config_have_their_lines(palettery, model, tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text(
        "global_config:\n  op_state_spec:\n    weight:\n      n_bits: 5\n  speed: 9\n"
    )
    code, printed, error = palettery("plan", model, "--config", config)
    assert (code, printed) == (2, "")
    _, *faults = error.splitlines()
    assert [fault.split(",")[0].strip() for fault in faults] == ["line 4", "line 5"]
    assert "/global_config/op_state_spec/weight/n_bits: n_bits must be one of" in error
    assert "/v1/" not in error
