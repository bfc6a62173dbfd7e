"""Kill -9 of everything while a model is scored for a target: nothing is scored twice."""

import pytest

from palettery.app.compression.score_cache import read_scores

pytestmark = pytest.mark.heavy
FORGED = 77.0


def test_scores_outlive_every_process(own, large_model):
    before = set(own.store.list("scores"))  # of models of other tests

    def new_scores():
        return [path for path in own.store.list("scores") if path not in before]

    answer = own.http.post(
        "/v1/jobs", files={"model": ("m.safetensors", large_model)}, data={"target": "0.1x"}
    )
    assert answer.status_code == 202, answer.text
    own.wait_until(lambda: len(new_scores()) > 2, "some tensors are scored")
    own.kill_all()
    scored = new_scores()
    assert len(scored) < 24
    for path in scored:  # by an error that no kernel computes
        scores = read_scores(own.store, path)
        forged = tuple(each.model_copy(update={"error": FORGED}) for each in scores.choices)
        own.store.write(
            path, scores.model_copy(update={"choices": forged}).model_dump_json().encode()
        )
    own.start()
    ended = own.succeeded(answer.json()["id"])
    assert ended["size_after_bytes"] == ended["predicted_size_bytes"]
    assert ended["size_after_bytes"] <= 0.1 * ended["size_before_bytes"]
    every = {path: read_scores(own.store, path).choices for path in new_scores()}
    assert len(every) == 24
    assert {path for path, choices in every.items() if choices[0].error == FORGED} == set(scored)
