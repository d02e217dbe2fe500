"""Each role is under a molecule scenario. tests/rehearsal/test_molecule.py sees by its log that it really ran there."""

import pytest

from scenarios import ROOT, SCENARIOS, called, covered


def test_no_role_is_left_out():
    roles = {path.name for path in (ROOT / "roles").iterdir()}
    assert {role for roles in covered().values() for role in roles} == roles


def test_the_table_in_contributing_has_the_scenarios_that_there_are():
    assert sorted(covered()) == sorted(SCENARIOS)


@pytest.mark.parametrize("scenario", sorted(SCENARIOS))
def test_a_scenario_calls_the_roles_that_it_covers(scenario):
    assert set(covered()[scenario]) - called(scenario) == set()
