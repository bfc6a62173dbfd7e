"""Files of inputs: how samples are counted, cut and put together, and what is refused."""

import pytest
import torch
from safetensors.torch import save_file

from palettery.app.errors import BadInput
from palettery.app.inference.inputs import InputSpec, Signature, read_inputs

IDS = InputSpec("ids", torch.int64, (None, None), 10)
MASK = InputSpec("attention_mask", torch.int64, (None, None))
TEXTS = Signature({"ids": IDS, "attention_mask": MASK})


@pytest.fixture
def read(tmp_path):
    """Read files of tensors."""

    def run(signature, *files):
        paths = {}
        for number, tensors in enumerate(files):
            path = tmp_path / f"{number}.safetensors"
            save_file(tensors, path)
            paths[path] = path.name
        return read_inputs(paths, signature)

    return run


def texts(*lengths, longest=6):
    ids = torch.arange(len(lengths))[:, None] + torch.ones(longest, dtype=torch.int64)
    mask = torch.arange(longest) < torch.tensor(lengths)[:, None]
    return {"ids": ids * mask, "attention_mask": mask.long()}


def test_similar_lengths_go_together_and_padding_is_cut(read):
    first, second = read(TEXTS, texts(5, 1, 4, 2), texts(3, longest=4))
    batches = [*first.batches(2), *second.batches(2)]
    assert [batch.samples for batch in batches] == [[1, 3], [2, 0], [4]]
    assert [list(batch.tensors["ids"].shape) for batch in batches] == [[2, 2], [2, 5], [1, 3]]
    assert batches[1].tensors["ids"][:, 0].tolist() == [3, 1]
    output = torch.arange(2 * 5 * 3).reshape(2, 5, 3)
    assert torch.equal(batches[1].without_padding(output, 0), output[0, :4])


def test_a_sample_is_known_whatever_its_padding(read):
    (short,), (long,) = read(TEXTS, texts(3, 1, longest=3)), read(TEXTS, texts(3, 1, longest=9))
    assert [*short.digests()] == [*long.digests()]
    assert len({*short.digests()}) == 2


def test_a_fixed_length_is_not_cut(read):
    fixed = InputSpec("ids", torch.int64, (None, 6), 10)
    (file,) = read(Signature({"ids": fixed, "attention_mask": MASK}), texts(2, 1))
    (batch,) = file.batches(8)
    assert list(batch.tensors["ids"].shape) == [2, 6]


def test_a_fixed_batch_and_a_tensor_that_all_samples_share(read):
    signature = Signature(
        {
            "x": InputSpec("x", torch.float32, (2, 3)),
            "table": InputSpec("table", torch.float32, (5,)),
        }
    )
    (file,) = read(signature, {"x": torch.randn(6, 3), "table": torch.randn(5)})
    assert [list(batch.tensors["x"].shape) for batch in file.batches(4)] == [[2, 3]] * 3
    assert all(len(batch.tensors["table"]) == 5 for batch in file.batches(4))


def test_a_model_of_single_samples(read):
    signature = Signature({"x": InputSpec("x", torch.float32, (16,))})
    (file,) = read(signature, {"x": torch.randn(3, 16), "labels": torch.arange(3)})
    batches = [*file.batches(4)]
    assert [list(batch.tensors["x"].shape) for batch in batches] == [[16]] * 3
    assert [batch.labels.tolist() for batch in batches] == [[0], [1], [2]]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ids": torch.full((2, 6), 10)}, "has the index 10; the model's embedding has 10 rows"),
        ({"ids": torch.full((2, 6), -1)}, "has the index -1"),
        ({"ids": torch.ones(2, 6)}, "dtype float32; the model takes int64"),
        ({"ids": torch.ones(2, 6, 1).long()}, r"shape \[2, 6, 1\]; the model takes \[any, any\]"),
        ({"ids": torch.ones(3, 6).long()}, "2 of attention_mask, 3 of ids"),
        ({"ids": torch.ones(0, 6).long(), "attention_mask": torch.ones(0, 6).long()}, "no samples"),
        ({"other": torch.ones(2)}, "has ids, attention_mask, other: name its tensors|inputs are"),
    ],
)
def test_inputs_that_the_model_does_not_take(read, change, said):
    with pytest.raises(BadInput, match=said):
        read(TEXTS, texts(2, 1) | change)


def test_a_file_that_is_none(tmp_path):
    path = tmp_path / "inputs"
    path.write_bytes(b"none")
    with pytest.raises(BadInput, match="the inputs mine are no safetensors file"):
        read_inputs({path: "mine"}, TEXTS)
