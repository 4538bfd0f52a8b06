"""A minute of the search for wrong claims; `make adversary` runs the same search for longer."""

import numpy as np
import pytest

from adversary.oracle import Truth
from adversary.problems import BEYOND, KINDS, Given
from adversary.search import findings, smaller

EACH = 30  # problems of each kind


@pytest.mark.parametrize("name", KINDS)
def test_exact_arithmetic_refutes_nothing(name):
    found = [findings(name, number) for number in range(EACH)]
    assert {number: each.wrong for number, each in enumerate(found) if each.wrong} == {}
    assert name in BEYOND or sum(each.timid for each in found) <= EACH / 20


def test_a_wrong_claim_would_be_found(monkeypatch):
    """The search is not blind: a certificate that says yes to everything is refuted, in a problem of two features."""
    monkeypatch.setattr("saematch.assignment.certificate.Certificate.certified", True)
    wrong = next(number for number in range(EACH) if findings("ordinary_costs", number).wrong)
    assert "certified" in " ".join(findings("ordinary_costs", wrong).wrong)
    cost = smaller("ordinary_costs", wrong).cost
    assert cost is not None
    assert max(cost.shape) == 2


def test_the_oracle_is_right():
    given = Given(cost=np.array([[4.0, 1.0, 3.0], [2.0, 0.0, 5.0], [3.0, 2.0, 2.0]]))
    assert Truth.of(given).optimum == 5
    assert Truth.of(given).optimum_without(0, 1) == 6
    assert Truth.of(Given(cost=given.cost, max_cost=2.0)).optimum == 4
    assert Truth.of(Given(cost=np.full((2, 2), np.inf))).optimum is None
    assert Truth.of(Given(cost=given.cost[:2])).optimum == 3
