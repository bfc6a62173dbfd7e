"""A transformer and a convolutional network, from a `.pt2` to every form, on a real server.

Both are small; in a long run, MiniLM is the third.
"""

import io
import json
import re
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from palettery.app.artifacts import load
from palettery.app.artifacts.export.formats import FORMATS
from palettery.app.client import Client
from palettery.app.errors import UnsupportedFormat
from palettery.schemas.exports import EXPORT_FORMATS
from tests.examples import EXAMPLES
from tests.forged import export

MINILM = Path(__file__).parents[2] / ".cache/minilm"
FORMS = [to for to in EXPORT_FORMATS if FORMATS[to].needs != "config"]
FOLDERS = {"coreai": "model.aimodel/main.mlirb", "coreml": "model.mlpackage/Manifest.json"}
PER_TENSOR = {"op_state_spec": {"weight": {"n_bits": 4, "granularity": {"type": "per_tensor"}}}}
CONFIG = json.dumps({"global_config": PER_TENSOR})


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.body = nn.Conv2d(16, 256, 3, stride=2, groups=2)
        self.head = nn.Linear(256, 10)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        return self.head(torch.relu(self.body(x)).mean((2, 3)))


def network():
    torch.manual_seed(0)
    return export(Network().eval(), torch.randn(2, 3, 16, 16))


class Vectors(nn.Module):
    """A BERT's last hidden states, from token numbers alone."""

    def __init__(self, **config):
        super().__init__()
        import transformers

        self.model = transformers.BertModel(transformers.BertConfig(**config))

    def forward(self, tokens, mask):
        return self.model(input_ids=tokens, attention_mask=mask)[0]


def exported(vectors):
    tokens = torch.randint(0, 1000, (1, 16))
    return export(vectors.eval(), tokens, torch.ones_like(tokens))


def bert():
    torch.manual_seed(0)
    sizes = {"hidden_size": 256, "intermediate_size": 1024, "vocab_size": 2000}
    return exported(Vectors(**sizes, num_hidden_layers=1, num_attention_heads=4))


def minilm():
    vectors = Vectors(**json.loads((MINILM / "config.json").read_text()))
    vectors.model.load_state_dict(load_file(MINILM / "model.safetensors"), strict=False)
    return exported(vectors)


@pytest.fixture
def client(own):
    """Of an embedded service: in a scaled one, workers do the same work."""
    with Client(str(own.http.base_url)) as opened:
        yield opened


@pytest.mark.heavy
@pytest.mark.parametrize("make", [network, bert, *([minilm] if EXAMPLES else [])])
def test_every_form_of_a_model(client, tmp_path, make):
    """A job succeeds only if every form holds LUT[indices], and the model computes the same."""
    path = tmp_path / "model.pt2"
    path.write_bytes(make())
    job = client.wait(client.submit(path, config=CONFIG, formats=FORMS).id)
    assert job.state == "succeeded", job.error
    client.download(job.id, tmp_path / "packed")
    expected = load(tmp_path / "packed")
    dense = load_file(client.download_export(job.id, "dense", tmp_path / "dense"))
    assert dense.keys() <= expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in dense.items())
    report = client.report(job.id)
    assert {each.format: each.dense for each in report.exports} == dict.fromkeys(FORMS, ())
    for to, member in FOLDERS.items():
        out = client.download_export(job.id, to, tmp_path / to)
        with zipfile.ZipFile(io.BytesIO(out.read_bytes())) as archive:
            assert member in archive.namelist()
            assert archive.testzip() is None
        # Palettes stay palettes, beside a graph.
        assert out.stat().st_size < 1.1 * job.size_after_bytes + 30_000 < report.size_before_bytes
    out = client.download_export(job.id, "onnx", tmp_path / "model.onnx")
    assert out.stat().st_size < 1.1 * job.size_after_bytes + 40_000 < report.size_before_bytes


def test_a_form_that_takes_a_graph_is_refused_without_one(server, tmp_path, model):
    path = tmp_path / "m.safetensors"
    path.write_bytes(model)
    with Client(str(server.http.base_url)) as client:
        for ask in (client.plan, client.submit):
            with pytest.raises(UnsupportedFormat, match="coreai is a runnable model"):
                ask(path, preset="w4", formats=["coreai"])


def with_an_op_of_its_own(data, operator):
    """The archive, where one operator is another."""
    target, made = b'"torch.ops.aten.relu.default"', io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as sound, zipfile.ZipFile(made, "w") as changed:
        for name in sound.namelist():
            changed.writestr(name, sound.read(name).replace(target, b'"%b"' % operator.encode()))
    return made.getvalue()


@pytest.mark.parametrize(
    "operator",
    ["torch.ops.mine.op.default", "torch.ops.aten.max_pool2d_with_indices_backward.default"],
)
def test_a_graph_that_torch_must_not_see_is_refused_before_any_work(server, tmp_path, operator):
    path = tmp_path / "m.pt2"
    path.write_bytes(with_an_op_of_its_own(network(), operator))
    with Client(str(server.http.base_url)) as client:
        assert client.plan(path, preset="w4").tensors, "it can be palettized all the same"
        for ask in (client.plan, client.submit):
            with pytest.raises(UnsupportedFormat, match=re.escape(operator)):
                ask(path, preset="w4", formats=["coreai"])
