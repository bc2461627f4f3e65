"""Searches find what they found before they shared a skeleton, for the same seeds."""

from __future__ import annotations

from typing import Any

import _recorded
import msgspec
import pytest

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def before() -> Any:
    return msgspec.json.decode(_recorded.FILE.read_bytes())


@pytest.mark.parametrize("name", _recorded.RCAS)
def test_rcas_goes_the_same_way(before: Any, name: str) -> None:
    was, now = before["rcas"][name], _recorded.rcas(name)
    paths, paths_now = was.pop("paths"), now.pop("paths")
    assert now == was
    for (rule, steps), (rule_now, steps_now) in zip(paths, paths_now, strict=True):
        assert rule == rule_now
        assert [step[0] for step in steps] == [step[0] for step in steps_now]
        assert [step[1] for step in steps] == pytest.approx([step[1] for step in steps_now])
        if steps[0][2] is not None:
            assert [step[2] for step in steps] == pytest.approx([step[2] for step in steps_now])


def test_the_same_networks_are_derived_within_budgets(before: Any) -> None:
    assert _recorded.derived() == before["derived"]


@pytest.mark.parametrize("name", _recorded.GRADIENT)
def test_gradients_go_the_same_way(before: Any, name: str) -> None:
    was, now = before["gradient"][name], _recorded.gradient(name)
    assert (now["vector"], now["from_epoch"]) == (was["vector"], was["from_epoch"])
    for epoch, epoch_now in zip(was["course"], now["course"], strict=True):
        # Machines add up in another order, and a training makes much of little.
        assert [value is None for value in epoch_now] == [value is None for value in epoch]
        assert [v for v in epoch_now if v is not None] == pytest.approx([v for v in epoch if v is not None], rel=0.01)
