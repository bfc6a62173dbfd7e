"""Versions of named configs, on every supported database."""

import itertools
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from palettery.app.configs.documents import ConfigDocument, NormalizedConfig, normalize
from palettery.app.configs.repository import ConfigRepository
from palettery.app.errors import NotFound
from palettery.schemas.config import PRESETS
from tests.databases import KINDS

pytestmark = pytest.mark.databases(*KINDS)

AT_ONCE = 8


@pytest.fixture
def records(database):
    return ConfigRepository(database)


def config(n_bits):
    rule = {"op_state_spec": {"weight": {"n_bits": n_bits}}}
    return normal_form(f'{{"global_config": {str(rule).replace(chr(39), chr(34))}}}')


def normal_form(text):
    return NormalizedConfig.from_content(normalize(ConfigDocument(text), 1 << 20))


def put(records, n_bits, name="a", owner="local"):
    summary, is_new = records.put(owner, name, config(n_bits))
    return summary.version, is_new


def test_each_new_content_is_a_version(records):
    assert put(records, 4) == (1, True)
    assert put(records, 4) == (1, False)
    assert put(records, 6) == (2, True)
    assert put(records, 4) == (3, True), "only the newest version is compared"
    assert put(records, 4, name="b") == put(records, 4, owner="other") == (1, True)


def test_versions_read_back_as_they_were_stored(records):
    for n_bits in (4, 6):
        put(records, n_bits)
    assert records.get("local", "a").document == config(6).document
    first = records.get("local", "a@1")
    assert first.document == config(4).document
    assert first.summary.reference == "a@1"
    assert first.summary.sha256 == config(4).sha256


@pytest.mark.parametrize(
    "reference", ["b", "a@2", "a@0", "a@01", "a@", "@1", "A", "", "a\x00", "ä"]
)
def test_config_that_is_not_there(records, reference):
    put(records, 4)
    with pytest.raises(NotFound, match="there is no config"):
        records.get("local", reference)


def test_owners_do_not_see_each_other(records):
    put(records, 4)
    with pytest.raises(NotFound):
        records.get("other", "a")
    with pytest.raises(NotFound):
        records.delete("other", "a")
    assert records.page("other", 10, None) == []


def test_pages_go_by_name_with_the_newest_version_of_each(records):
    for name in ("c", "a", "b-1"):
        put(records, 4, name)
    put(records, 6, "b-1")
    first = records.page("local", 2, None)
    assert [config.reference for config in first] == ["a@1", "b-1@2"]
    assert [config.reference for config in records.page("local", 2, "b-1")] == ["c@1"]


def test_deleting_removes_every_version(records):
    put(records, 4)
    put(records, 6)
    put(records, 4, "b")
    records.delete("local", "a")
    for reference in ("a", "a@1", "a@2"):
        with pytest.raises(NotFound):
            records.get("local", reference)
    assert put(records, 8) == (1, True)
    assert records.get("local", "b")


def at_once(function, arguments):
    together = Barrier(len(arguments))

    def run(argument):
        together.wait()
        return function(argument)

    with ThreadPoolExecutor(len(arguments)) as senders:
        return list(senders.map(run, arguments))


def test_versions_have_no_gaps_however_many_are_stored_at_once(records):
    names = itertools.cycle(["w4", "w6", "w8"])
    documents = [normal_form(PRESETS[next(names)]().to_json()) for _ in range(AT_ONCE)]
    results = at_once(lambda document: records.put("local", "a", document), documents)
    new = sorted(summary.version for summary, is_new in results if is_new)
    assert new == list(range(1, len(new) + 1))
    assert records.get("local", "a").summary.version == len(new)
    for document, (summary, _) in zip(documents, results, strict=True):
        assert records.get("local", summary.reference).document == document.document


def test_same_content_at_once_is_one_version(records):
    results = at_once(lambda _: put(records, 4), range(AT_ONCE))
    assert sorted(results) == [(1, False)] * (AT_ONCE - 1) + [(1, True)]
