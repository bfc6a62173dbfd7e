"""Messages of a job's log, word by word."""

import pytest

from palettery.app.events import log_messages as messages
from palettery.schemas.problem import Problem


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (messages.queue_position(0), "queued; next in line"),
        (messages.queue_position(1), "queued behind 1 job"),
        (messages.queue_position(1_234), "queued behind 1,234 jobs"),
        (messages.started_by("c"), "started by controller c"),
        (messages.size_summary(2_000, 500), "2,000 bytes of tensors became an artifact of 500"),
        (messages.task_summary(1, 0, 2), "cut into 1 task; 0 finished before, 2 results"),
    ],
)
def test_words_and_numbers(made, text):
    assert made.message.startswith(text)
    assert (made.level, made.tensor) == ("info", None)


def test_what_goes_wrong_has_its_level():
    death = messages.worker_death("compressing a.weight", "a.weight")
    assert (death.level, death.tensor) == ("warning", "a.weight")
    assert messages.retry("the store is away").level == "warning"
    problem = Problem(type="about:blank", title="t", status=500, code="x", detail="no luck")
    assert messages.failure(problem) == messages.LogMessage("failed: no luck", "error")


def test_kept_tensors_are_counted_by_reason():
    made = messages.kept_tensors({"a bias": 1, "too small": 3})
    assert [each.message for each in made] == ["1 tensor kept: a bias", "3 tensors kept: too small"]
