"""Reports as CSV: one row per tensor, and nothing that a spreadsheet would run."""

import csv
import io

import pytest

from palettery.app.jobs.report_csv import COLUMNS, report_csv
from palettery.app.storage.open import open_storage
from palettery.schemas.config import PalettizationSpec
from palettery.schemas.plan import Clustering
from palettery.schemas.report import Report, TensorReport

KEPT = TensorReport(
    name="a.bias",
    aliases=("b.bias", "c.bias"),
    module="a",
    module_type=None,
    dtype="F32",
    shape=(4,),
    action="kept",
    rule=None,
    reason='it is "small", and\nodd',
    size_before_bytes=16,
    size_after_bytes=16,
    bits_per_weight=32.0,
)
PALETTIZED = TensorReport(
    name="größe.weight",
    module="größe",
    module_type="torch.nn.modules.linear.Linear",
    dtype="F16",
    shape=(64, 32),
    action="palettized",
    rule="global_config",
    spec=PalettizationSpec(n_bits=6, cluster_dim=2),
    clustering=Clustering(axis=1, group_size=8, rounding_precision=None),
    groups=4,
    size_before_bytes=4096,
    size_after_bytes=1700,
    bits_per_weight=6.64,
    sse=0.5,
    snr_db=-1.5,
    reused=True,
)


def report(*entries):
    return Report(
        tensors=entries,
        size_before_bytes=1,
        size_after_bytes=1,
        palettized_size_before_bytes=1,
        palettized_size_after_bytes=1,
        bits_per_weight=1.0,
        artifact_sha256={},
        software={},
        warnings=('"tensors":[{}]',),
    )


def rows(tmp_path, *entries):
    store = open_storage(tmp_path.as_uri())
    store.write("report.json", report(*entries).model_dump_json().encode())
    text = report_csv(store.url, "report.json").decode()
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_every_tensor_is_a_row(tmp_path):
    kept, palettized = rows(tmp_path, KEPT, PALETTIZED)
    assert tuple(kept) == COLUMNS
    assert (kept["name"], kept["aliases"], kept["shape"]) == ("a.bias", "b.bias c.bias", "4")
    assert kept["reason"] == KEPT.reason
    assert kept["n_bits"] == kept["axis"] == kept["snr_db"] == ""
    assert palettized["name"] == "größe.weight"
    given = [palettized[name] for name in ("n_bits", "cluster_dim", "axis", "group_size")]
    assert given == ["6", "2", "1", "8"]
    assert (palettized["snr_db"], palettized["reused"]) == ("-1.5", "true")


@pytest.mark.parametrize(
    "start", [*"=+-@\t\r\uff1d\uff0b\uff0d\uff20", " =", "  +", "\n-", "\u3000@", " \uff1d"]
)
def test_no_text_is_a_formula(tmp_path, start):
    evil = KEPT.model_copy(
        update={"name": f'{start}cmd|"/c calc"!A0', "module": f"{start}1", "aliases": (start,)}
    )
    (row,) = rows(tmp_path, evil)
    evil_cells = (row["name"], row["module"], row["aliases"])
    assert evil_cells == ("'" + evil.name, f"'{start}1", f"'{start}")


def test_text_that_is_no_formula_stays_as_it_is(tmp_path):
    harmless = KEPT.model_copy(update={"name": " a=b", "module": "a\t+b"})
    (row,) = rows(tmp_path, harmless)
    assert (row["name"], row["module"]) == (" a=b", "a\t+b")


def test_report_without_tensors(tmp_path):
    assert rows(tmp_path) == []
