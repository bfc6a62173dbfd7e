"""Named configs over HTTP, on real services."""

import json
import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from palettery.schemas.config import PRESETS, KMeansPalettizerConfig, w4, w6
from palettery.schemas.configs import ConfigPage, NamedConfig, ValidatedConfig
from palettery.schemas.problem import Problem

JSON, YAML = "application/json", "application/yaml"
AT_ONCE = 6


@pytest.fixture
def name(request):
    """A config's name of this test's own."""
    return re.sub("[^a-z0-9]+", ".", request.node.name.lower())[:60].strip(".")


@pytest.fixture
def put(server, name):
    def send(text, kind=JSON, name=name):
        return server.http.put(f"/v1/configs/{name}", content=text, headers={"Content-Type": kind})

    return send


def refused(answer, status, code):
    assert answer.status_code == status, answer.text
    outcome = Problem.model_validate_json(answer.content)
    assert (outcome.status, outcome.code) == (status, code)
    return outcome


def test_versions_are_stored_and_read(server, put, name):
    first = put(w4().to_json())
    assert first.status_code == 201
    assert first.headers["location"] == f"/v1/configs/{name}@1"
    stored = NamedConfig.model_validate_json(first.content)
    assert (stored.reference, stored.config) == (f"{name}@1", w4())
    again = put(w4().to_yaml(), YAML)
    assert (again.status_code, again.content) == (200, first.content), "it says the same"
    assert put(w6().to_yaml(), "text/yaml; charset=utf-8").headers["location"].endswith("@2")
    newest = server.http.get(f"/v1/configs/{name}").json()
    assert KMeansPalettizerConfig.model_validate(newest["config"]) == w6()
    assert server.http.get(f"/v1/configs/{name}@1").content == first.content
    assert server.http.get(newest["links"]["self"]).json() == newest
    refused(server.http.get(f"/v1/configs/{name}@3"), 404, "not_found")


def test_list_and_delete(server, put, name):
    names = [f"{name}-{n}" for n in range(3)]
    for each in names:
        put(w4().to_json(), name=each)
    result, query = [], {"limit": 2}
    while query:
        page = ConfigPage.model_validate_json(server.http.get("/v1/configs", params=query).content)
        result += [item.name for item in page.items]
        query = page.next_cursor and {"limit": 2, "cursor": page.next_cursor}
    assert [each for each in result if each in names] == names
    assert result == sorted(result)
    assert server.http.delete(f"/v1/configs/{names[0]}").status_code == 204
    refused(server.http.delete(f"/v1/configs/{names[0]}"), 404, "not_found")
    refused(server.http.get(f"/v1/configs/{names[0]}"), 404, "not_found")
    assert server.http.get(f"/v1/configs/{names[1]}").is_success


@pytest.mark.scaled
def test_many_at_once_get_versions_without_gaps(put):
    texts = [list(PRESETS.values())[n % 3]().to_json() for n in range(AT_ONCE)]
    with ThreadPoolExecutor(AT_ONCE) as senders:
        answers = list(senders.map(put, texts))
    assert {answer.status_code for answer in answers} <= {200, 201}
    new = sorted(answer.json()["version"] for answer in answers if answer.status_code == 201)
    assert new == list(range(1, len(new) + 1))


@pytest.mark.parametrize("bad", ["A", "-a", "a b", "a@1", "x" * 65, "%00", "%C3%A4", "..%2Fa"])
def test_names_that_are_none(put, bad):
    answer = put(w4().to_json(), name=bad)
    assert answer.status_code in (404, 422), answer.text
    assert "Traceback" not in answer.text


@pytest.mark.parametrize("kind", ["", "text/plain", "application/xml", "multipart/form-data"])
def test_other_types_are_refused(server, put, name, kind):
    outcome = refused(put(w4().to_json(), kind), 415, "unsupported_media_type")
    assert "send application/json or application/yaml" in outcome.detail
    refused(server.http.get(f"/v1/configs/{name}"), 404, "not_found")


def test_invalid_config_is_not_stored(server, put, name):
    outcome = refused(put('{"global_config": 1, "module_name_configs": 2}'), 422, "invalid_config")
    assert {error.pointer for error in outcome.errors} == {"/global_config", "/module_name_configs"}
    refused(put("global_config: null", JSON), 422, "invalid_config")
    refused(server.http.get(f"/v1/configs/{name}"), 404, "not_found")


def validate(server, text, kind=YAML):
    answer = server.http.post("/v1/configs/validate", content=text, headers={"Content-Type": kind})
    assert answer.status_code == 200, answer.text
    return ValidatedConfig.model_validate_json(answer.content)


def test_validate_tells_every_error_at_once(server):
    result = validate(server, "global_config: 1\nmodule_name_configs:\n  a: {op: 2}\n")
    assert not result.is_valid
    places = {(error.pointer, error.line) for error in result.errors}
    assert places == {("/global_config", 1), ("/module_name_configs/a/op", 3)}


def test_validate_gives_the_config_in_both_languages(server):
    result = validate(server, w6().model_dump_json(), JSON)
    assert result.is_valid
    assert result.config == w6()
    assert validate(server, result.json_text, JSON) == validate(server, result.yaml_text) == result


def large_config(megabytes):
    """A config of about so many megabytes: a rule for each of many modules."""
    rule = {"op_state_spec": {"weight": {"n_bits": 4}}}
    count = megabytes * 4_000
    text = json.dumps({"module_name_configs": {f"encoder[.]{n:06d}": rule for n in range(count)}})
    return text + " " * (megabytes * 1_000_000 - len(text))


def test_document_of_megabytes(server, put, name):
    text = large_config(2)
    assert put(text).status_code == 201
    stored = NamedConfig.model_validate_json(server.http.get(f"/v1/configs/{name}").content)
    assert len(stored.config.module_name_configs) == 8_000


def test_document_over_the_limit(put):
    outcome = refused(put(" " * ((8 << 20) + 1)), 413, "too_large")
    assert "8,388,608 bytes" in outcome.detail


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "a: &a [x, x]\n"
            + "".join(
                f"b{n}: &b{n} [*{'ab'[n > 0]}{n - 1 if n else ''}"
                f", *{'ab'[n > 0]}{n - 1 if n else ''}]\n"
                for n in range(30)
            ),
            "values",
        ),
        ("[" * 100_000, "deeper"),
        ("a: " * 3 + "{a: " * 200_000, "deeper"),
        ("%TAG ! tag:x,2000:\n---\na: 1", "directives"),
    ],
)
def test_bombs(server, text, message):
    (error,) = validate(server, text).errors
    assert message in error.detail or "not valid YAML" in error.detail
