"""Adaptive sampling: few layers are measured, chosen by what they tell, until whole networks are predicted well."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from _commands import run_here

from lut import LatencyTable, Network, UsageError
from lut._records import NOT_CHOSEN
from lut.errors import InterruptedRunError
from predictors import LatencyPredictor
from profiler import TargetSpec, profile
from profiler._adaptive import FIRST, LEAST_NETWORKS, Adaptive, Sampler
from profiler._journal import journal_path
from profiler._session import Progress
from profiler._sources import subject_of
from profiler._workload import Workload, different
from search import ResNetCifar

FAKE = "profiler._fake:FakeTarget"


# Twenty-four layers miss it by a third, forty-eight keep it by a seventh, on whatever machine.
FINE = 0.02


def networks(count: int, seed: int) -> tuple[Network, ...]:
    space = ResNetCifar(expand=1.0, depth=20)
    rng = random.Random(seed)
    made = [space.decode(space.sample_quick(rng)) for _ in range(count)]
    return tuple(Network(f"{seed}-{i}", network.layers) for i, network in enumerate(made))


def sample(tmp_path: Path, target_error: float, *, wholes: int = 12, **options: Any) -> LatencyTable:
    fake = {"sigma": 0.01, **options.pop("fake", {})}
    adaptive = options.pop("adaptive", Adaptive(networks(15, 2), target_error))
    return profile(
        Workload((), (), tuple(map(subject_of, networks(wholes, 1))), adaptive=adaptive),
        target=TargetSpec(FAKE, fake),
        output=tmp_path / "t.json",
        reference=tmp_path / "references.json",
        time_budget_s=options.pop("time_budget_s", 60.0),
        **options,
    )


def test_it_stops_as_soon_as_held_out_networks_are_predicted_well(tmp_path: Path) -> None:
    table = sample(tmp_path, 0.5)
    assert len(table) == FIRST
    design = {item.layer for network in networks(15, 2) for item in network.layers}
    assert set(table) <= design
    assert table.sampled
    assert {entry.reason for entry in table.not_measured} == {NOT_CHOSEN}
    assert all(network.end_to_end is not None for network in table.networks)
    sampling = table.sessions[0].sampling
    assert sampling is not None
    assert (sampling.target_error, sampling.ended) == (0.5, "met")
    assert sampling.error is not None
    assert sampling.error <= 0.5
    # Nothing of it is a sum that was never held against a network: loading does not warn.
    loaded = LatencyTable.load(tmp_path / "t.json")
    assert loaded.to_json() == table.to_json()
    held = LatencyPredictor.fit(loaded).held_out_networks
    assert held.count == 12
    assert held.mape is not None
    assert held.mape < 0.5


def test_a_finer_aim_takes_more_layers_and_reaches_it(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    rough = sample(tmp_path / "a", 0.5)
    fine = sample(tmp_path / "b", FINE)
    assert fine.sessions[0].sampling is not None
    assert fine.sessions[0].sampling.ended == "met"
    everything = {item.layer for network in (*networks(12, 1), *networks(15, 2)) for item in network.layers}
    assert len(rough) < len(fine) < len(everything) / 2
    fresh = networks(40, 3)
    truth = {layer: ms.median_ms for layer, ms in _all_layers(fresh, tmp_path).items()}

    def error(table: LatencyTable) -> float:
        predictor = LatencyPredictor.fit(table)
        errors = []
        for network in fresh:
            wanted = sum(item.count * truth[item.layer] for item in network.layers)
            errors.append(abs(predictor.latency_ms(network) / wanted - 1))
        return sum(errors) / len(errors)

    # A fake network takes its work and one floor, not one per layer: relative to that both are biased alike.
    assert error(fine) <= error(rough) * 1.1


def _all_layers(made: tuple[Network, ...], tmp_path: Path) -> LatencyTable:
    layers = tuple(dict.fromkeys(item.layer for network in made for item in network.layers))
    spec = TargetSpec(FAKE, {"sigma": 0.001})
    return profile(layers, target=spec, output=tmp_path / "all.json", reference=tmp_path / "r.json", time_budget_s=60)


def test_the_budget_ends_it_where_the_aim_is_out_of_reach(tmp_path: Path) -> None:
    table = sample(tmp_path, 0.001, fake={"sigma": 0.2}, time_budget_s=3.0)
    assert len(table) >= FIRST
    sampling = table.sessions[0].sampling
    assert sampling is not None
    assert sampling.ended != "met"
    assert sampling.error is None or sampling.error > 0.001


def test_a_device_that_runs_no_layer_gives_failures_and_no_crash(tmp_path: Path) -> None:
    aim = Adaptive(networks(2, 2), 0.5)
    broken = {layer.digest: "raise" for layer in aim.layers}
    table = sample(tmp_path, 0.5, adaptive=aim, fake={"misbehave": broken}, time_budget_s=20.0)
    assert not len(table)
    assert {failure.layer for failure in table.failures} == set(aim.layers)
    assert table.sessions[0].sampling is not None
    assert table.sessions[0].sampling.ended == "nothing left"


def test_networks_that_are_measured_whole_are_none_that_layers_are_chosen_from() -> None:
    # Two widths of the stem, one of everything else: two networks.
    space = ResNetCifar(expand=0.125, depth=8)

    def draw(rng: random.Random) -> tuple[int, ...]:
        return (rng.randrange(2), *(0 for _ in space.choices[1:]))

    design = different(space, draw, 1, random.Random(0))
    for seed in range(10):
        (whole,) = different(space, draw, 1, random.Random(seed), apart=design)
        assert whole.layers != design[0].layers
    with pytest.raises(UsageError, match="2 networks were asked for, and the space resnet-cifar gave only 1"):
        different(space, draw, 2, random.Random(0), apart=design)


def test_a_layer_that_fails_is_a_failure_and_not_chosen_again(tmp_path: Path) -> None:
    aim = Adaptive(networks(15, 2), FINE)
    first = sorted(Sampler(aim, aim.layers, (), 0).opened)[0]
    table = sample(tmp_path, FINE, adaptive=aim, fake={"misbehave": {aim.layers[first].digest: "raise"}})
    assert [failure.layer for failure in table.failures] == [aim.layers[first]]
    assert len(table) >= FIRST
    LatencyPredictor.fit(table, failures="skip")


def test_an_interrupted_run_goes_on_with_what_it_had_chosen(tmp_path: Path) -> None:
    def stop(now: Progress) -> None:
        # Further layers were chosen, and some of them visited.
        if now.layers > 12 + FIRST and now.visits > 350:
            raise KeyboardInterrupt

    with pytest.raises(InterruptedRunError, match="visits are kept"):
        sample(tmp_path, FINE, progress=stop)
    before = {visit.entry for visit in _journal_visits(tmp_path) if visit.entry >= 0}
    table = sample(tmp_path, FINE)
    assert table.sessions[0].resumed == 1
    measured = {layer.digest for layer in table}
    inner = [item.layer for network in networks(12, 1) for item in network.layers]
    entries = tuple(dict.fromkeys([*inner, *Adaptive(networks(15, 2)).layers]))
    taken_up = {entries[entry].digest for entry in before if entry < len(entries)}
    assert len(taken_up) > FIRST
    assert taken_up <= measured


def _journal_visits(tmp_path: Path) -> list[Any]:
    from profiler._journal import Journal

    journal = Journal(journal_path(tmp_path / "t.json"))
    return list(journal.read().visits)


@pytest.mark.parametrize("error", [0.0, -1.0, 2.0, float("nan")])
def test_an_impossible_aim_is_refused(tmp_path: Path, error: float) -> None:
    with pytest.raises(UsageError, match="target error is a share"):
        sample(tmp_path, error)


def test_too_few_whole_networks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"needs {LEAST_NETWORKS} of them, got 3: audit=30"):
        sample(tmp_path, 0.03, wholes=3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--sampling", "some"), "--sampling is full or adaptive, got 'some'"),
        (("--target-error", "0.1"), "--target-error is where --sampling adaptive stops"),
        (("--sampling", "adaptive", "--audit", "3"), "--audit 30"),
        (("--sampling", "adaptive", "--target-error", "7"), "target error is a share between 0.001 and 1"),
        (("--sampling", "adaptive", "--model", "x.py:make"), "chooses among the layers of a --space"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    done = run_here(tmp_path, "profile-device", *arguments, code=2)
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.usefixtures("short_preflight")
def test_the_command_samples_the_real_machine(tmp_path: Path) -> None:
    done = run_here(
        tmp_path,
        "profile-device",
        *("--sampling", "adaptive", "--target-error", "1", "--audit", "10", "--expand", "0.25", "--batch", "1"),
        *("--threads", "1", "--quick", "--precision", "0.5", "--output", "t.json"),
    )
    assert "sampled for prediction: 24 layers and 10 whole networks" in done.stdout
    assert "10 networks, each by others" in done.stdout
    assert "fit-predictor t.json" in done.stdout
    fitted = run_here(tmp_path, "fit-predictor", "t.json", "--output", "p")
    assert "24 layers of t.json" in fitted.stdout
    asked = run_here(
        tmp_path,
        "predict-latency",
        "--predictor",
        "p",
        "--space",
        "resnet-cifar",
        "--expand",
        "0.25",
        "--choices",
        "random",
    )
    assert " ms[" not in asked.stdout
    assert "at 90%" in asked.stdout
