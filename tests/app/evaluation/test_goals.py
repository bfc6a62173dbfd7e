"""Qualities as a server takes them, and as goals of the command line."""

import pytest
from pydantic import ValidationError

from palettery.app.errors import BadInput
from palettery.app.evaluation.goals import (
    excess_loss,
    goals_quality,
    parse_goal,
    quality_goals,
)
from palettery.schemas.evaluation import Quality


@pytest.mark.parametrize(
    ("quality", "goals"),
    [
        ({"cosine": 0.98}, ["cosine=0.98"]),
        ({"cosine": 0.98, "percentile": 5}, ["cosine.p5=0.98"]),
        ({"cosine": 0, "percentile": 0, "top1": 0.9}, ["cosine.min=0", "top1=0.9"]),
        ({"snr_db": 20, "accuracy": 0.5}, ["snr_db=20", "accuracy=0.5"]),
    ],
)
def test_a_quality_is_a_list_of_goals(quality, goals):
    made = Quality.model_validate(quality)
    assert [str(goal) for goal in quality_goals(made)] == goals
    assert goals_quality([parse_goal(goal) for goal in goals]) == made


def test_no_quality_has_no_goals():
    assert (quality_goals(None), goals_quality([])) == ([], None)


@pytest.mark.parametrize("quality", [{}, {"percentile": 5}, {"cosine": 0.9, "percentile": 50}])
def test_no_quality(quality):
    with pytest.raises(ValidationError):
        Quality.model_validate(quality)


@pytest.mark.parametrize(
    ("goals", "said"),
    [(["cosine=0.9", "cosine.p5=0.8"], "cosine has two goals"), (["cosine=2"], "at most 1")],
)
def test_goals_that_a_server_does_not_take(goals, said):
    with pytest.raises(BadInput, match=said):
        goals_quality([parse_goal(goal) for goal in goals])


@pytest.mark.parametrize(
    ("goals", "reached", "excess"),
    [
        (["cosine=0.98"], {"cosine": 0.99}, 0.5),
        (["cosine.p5=0.5"], {"cosine.p5": 0.5}, 1),
        (["snr_db=20"], {"snr_db": 10}, 10),
        (["snr_db=20"], {"snr_db": float("inf")}, 0),
        (["cosine=0.9", "top1=0.5"], {"cosine": 0.99, "top1": 0.25}, 1.5),
        (["cosine=1"], {"cosine": 1 + 1e-9}, 0),
    ],
)
def test_losses_are_multiples_of_what_the_goals_allow(goals, reached, excess):
    assert excess_loss([parse_goal(goal) for goal in goals], reached) == pytest.approx(excess)
