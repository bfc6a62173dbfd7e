from pathlib import Path

import pytest

from palettery.app.client.requests import document_of, model_id_of, paths_of, text_of
from palettery.app.errors import BadInput, InvalidConfig
from palettery.schemas.config import parse_config, w4

ID = "0" * 64


def test_files_however_they_are_given():
    assert paths_of("a") == paths_of(Path("a")) == paths_of(["a"]) == [Path("a")]
    assert paths_of([Path("a"), "b"]) == [Path("a"), Path("b")]


def test_a_model_by_its_id_or_its_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert model_id_of(ID) == model_id_of([Path(ID)]) == ID
    assert model_id_of("model.safetensors") is None
    assert model_id_of([ID, ID]) is None
    Path(ID).write_bytes(b"")
    assert model_id_of(ID) is None


YAML = "global_config: {op_state_spec: {weight: {n_bits: 6}}}"
DOCUMENT = {"global_config": {"op_state_spec": {"weight": {"n_bits": 6}}}}


def test_a_config_however_it_is_given(tmp_path):
    (tmp_path / "c.yaml").write_text(YAML)
    for given in (YAML, tmp_path / "c.yaml", DOCUMENT):
        assert document_of(given) == DOCUMENT
    assert parse_config(text_of(w4())) == w4()
    assert text_of(YAML) == YAML


def test_a_config_that_is_none(tmp_path):
    with pytest.raises(InvalidConfig):
        document_of("a: [")
    with pytest.raises(BadInput, match="nowhere"):
        document_of(tmp_path / "nowhere")
    with pytest.raises(BadInput, match="JSON"):
        document_of({"a": object()})
