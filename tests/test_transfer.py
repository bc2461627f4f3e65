"""A new device from a few probes: made devices of which the truth is known, every bad input, and measured ones."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import conv, curve_of, simulate, table_of
from scipy.stats import spearmanr

from lut import LatencyTable, UsageError
from lut.errors import PredictorError
from predictors._transfer import DeviceTransfer, choose_probes, learn_prior, transfer_tables
from profiler import FakeTarget

DATA = Path(os.environ.get("LATENCY_LUT_DATA", Path(__file__).parents[2] / "shared" / "data")) / "nas-bench-201"
NINETY = 1.6449
Floats = np.ndarray[Any, np.dtype[np.float64]]


def devices(*, items: int = 400, count: int = 9, rank: int = 3, noise: float = 0.0, seed: int = 0) -> Floats:
    """Return made latencies: a level, a common slope and a mixture of a few directions per device, and noise."""
    generator = np.random.default_rng(seed)
    common = generator.normal(0, 0.6, items)
    directions = generator.normal(0, 0.3, (items, rank))
    mixtures = generator.normal(0, 0.6, (rank, count))
    logs = generator.normal(1, 1, count) + common[:, None] + directions @ mixtures
    return np.asarray(np.exp(logs + noise * generator.normal(size=logs.shape)))


def errors(ms: Floats, probes: Any, new: int = 0, **options: Any) -> tuple[Floats, Floats]:
    """Return log(predicted / true) of all items of a left-out device, and what deviation was expected."""
    known = np.delete(ms, new, axis=1)
    found = DeviceTransfer.fit(known, probes, ms[probes, new], **options).predict()
    return np.log(found.ms / ms[:, new]), found.deviation


@pytest.mark.parametrize("new", range(4))
def test_devices_of_few_directions_are_recovered(new: int) -> None:
    ms = devices()
    off, deviation = errors(ms, choose_probes(np.delete(ms, new, axis=1), 10), new)
    assert np.mean(np.abs(np.expm1(off))) < 0.02
    assert np.median(deviation) < 0.05


@pytest.mark.parametrize("count", [5, 20, 50])
def test_more_probes_any_number(count: int) -> None:
    ms = devices(noise=0.02)
    off, deviation = errors(ms, choose_probes(ms[:, 1:], count))
    assert np.sqrt(np.mean(off**2)) < {5: 0.2, 20: 0.06, 50: 0.04}[count]
    assert np.all(deviation > 0.005)


def test_chosen_probes_beat_random_ones() -> None:
    chosen, drawn = [], []
    for seed in range(6):
        ms = devices(seed=seed, noise=0.02)
        chosen.append(np.sqrt(np.mean(errors(ms, choose_probes(ms[:, 1:], 6))[0] ** 2)))
        for draw in range(4):
            probes = np.random.default_rng(draw).choice(len(ms), 6, replace=False)
            drawn.append(np.sqrt(np.mean(errors(ms, probes)[0] ** 2)))
    assert np.mean(chosen) < 0.9 * np.mean(drawn)


def test_it_is_less_sure_away_from_the_probes() -> None:
    ms = devices(noise=0.02)
    order = np.argsort(ms[:, 1:].prod(axis=1))
    near = order[:200]
    off, deviation = errors(ms, near[::20])
    assert np.mean(deviation[order[-100:]]) > 1.3 * np.mean(deviation[near])
    assert np.mean(np.abs(off[order[-100:]])) > np.mean(np.abs(off[near]))


def test_more_probes_make_it_surer() -> None:
    ms = devices(noise=0.02)
    few, many = (np.mean(errors(ms, choose_probes(ms[:, 1:], count))[1]) for count in (4, 30))
    assert many < 0.8 * few


def test_ninety_of_a_hundred_lie_inside() -> None:
    inside = []
    for seed in range(6):
        ms = devices(noise=0.03, seed=seed)
        off, deviation = errors(ms, choose_probes(ms[:, 1:], 12))
        inside.append(np.mean(np.abs(off) <= NINETY * deviation))
    assert 0.8 < np.mean(inside) < 0.995


def test_a_device_like_one_known_one_follows_it() -> None:
    ms = devices(count=8, rank=6, noise=0.02)
    twin = 3 * ms[:, 2] * np.exp(np.random.default_rng(1).normal(0, 0.01, len(ms)))
    probes = choose_probes(ms, 10)
    found = DeviceTransfer.fit(ms, probes, twin[probes]).predict()
    assert np.mean(np.abs(found.ms / twin - 1)) < 0.03


@pytest.mark.parametrize("known", [1, 2, 3])
def test_few_known_devices(known: int) -> None:
    ms = devices(count=known + 1, rank=1, noise=0.01)
    off, _ = errors(ms, choose_probes(ms[:, 1:], 12))
    # Without the probes' slope and level, the new device's own spread is what one would be off.
    assert np.std(off) < 0.5 * np.std(np.log(ms[:, 0]))


def test_features_show_what_other_devices_do_not() -> None:
    ms = devices(rank=2, count=6)
    generator = np.random.default_rng(3)
    features = generator.normal(size=(len(ms), 3))
    new = ms[:, 0] * np.exp(0.4 * features[:, 0])
    probes = generator.choice(len(ms), 20, replace=False)
    off = [
        np.std(np.log(DeviceTransfer.fit(ms[:, 1:], probes, new[probes], features=given).predict().ms / new))
        for given in (features, None)
    ]
    assert off[0] < 0.6 * off[1]


def test_latencies_that_never_differ() -> None:
    found = DeviceTransfer.fit(np.full((30, 2), 2.0), [0, 1, 2], [5.0, 5.0, 5.0], features=np.ones((30, 2))).predict()
    assert found.ms == pytest.approx(np.full(30, 5.0))
    assert len(set(choose_probes(np.full((30, 2), 2.0), 30).tolist())) == 30


def test_the_same_again() -> None:
    ms = devices(items=3000, noise=0.05)
    probes = choose_probes(ms[:, 1:], 10, seed=3)
    assert np.array_equal(probes, choose_probes(ms[:, 1:], 10, seed=3))
    assert not np.array_equal(probes, choose_probes(ms[:, 1:], 10, seed=4))
    assert len(set(probes.tolist())) == 10
    for a, b in zip(errors(ms, probes, seed=1), errors(ms, probes, seed=1), strict=True):
        assert np.array_equal(a, b)


def test_units_do_not_matter() -> None:
    ms = devices(noise=0.02)
    scale = np.random.default_rng(0).lognormal(0, 3, ms.shape[1])
    probes = choose_probes(ms[:, 1:], 10)
    assert np.array_equal(probes, choose_probes(ms[:, 1:] * scale[1:], 10))
    found = [errors(given, probes) for given in (ms, ms * scale)]
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-3)
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-2)


def test_a_prior_given_is_the_prior_learned() -> None:
    ms = devices(noise=0.02)
    probes = choose_probes(ms[:, 1:], 10)
    prior = learn_prior(ms[:, 1:])
    assert prior.variances.shape == (2 + 8, 4 + 1)
    assert np.array_equal(errors(ms, probes)[0], errors(ms, probes, prior=prior)[0])
    with pytest.raises(UsageError, match="learned with other features"):
        errors(ms, probes, prior=prior, features=np.random.default_rng(0).normal(size=(len(ms), 2)))


def test_many_items_are_predicted_piece_by_piece() -> None:
    ms = devices(items=20_000, noise=0.02)
    probes = choose_probes(ms[:, 1:], 10)
    whole, _ = errors(ms, probes)
    assert len(whole) == 20_000
    assert np.sqrt(np.mean(whole[:16_000] ** 2)) == pytest.approx(np.sqrt(np.mean(whole[17_000:] ** 2)), rel=0.2)


GOOD = np.arange(1.0, 41.0).reshape(20, 2)


def changed(value: float) -> Floats:
    ms = GOOD.copy()
    ms[3, 1] = value
    return ms


@pytest.mark.parametrize(
    ("known", "probes", "ms", "options", "message"),
    [
        (GOOD, [0, 1], [1, 2], {}, "needs 3 probes or more, got 2"),
        (GOOD, [0, 1, 2], [1, 2], {}, "of one length, got 3 and 2"),
        (GOOD, [0, 1, 20], [1, 2, 3], {}, "20 is no item's index, there are 20"),
        (GOOD, [0, 1, -1], [1, 2, 3], {}, "-1 is no item's index"),
        (GOOD, [0.0, 1.0, 2.0], [1, 2, 3], {}, "expected indices of items"),
        (GOOD, [[0, 1, 2]], [1, 2, 3], {}, "expected indices of items"),
        (GOOD, [0, 1, 2], [1, 0, 3], {}, "probe_ms: .* probe 1 has 0"),
        (GOOD, [0, 1, 2], [1, np.inf, 3], {}, "probe 1 has inf"),
        (GOOD, [0, 1, 2], [[1, 2, 3]], {}, r"probe_ms: expected the shape \(probes,\)"),
        (GOOD, [], [], {}, "probe_ms: expected the shape"),
        (GOOD[:, 0], [0, 1, 2], [1, 2, 3], {}, r"known_ms: expected the shape \(items, devices\)"),
        (GOOD[:, :0], [0, 1, 2], [1, 2, 3], {}, "not empty"),
        ([[1.0, 2.0], [1.0]], [0, 1, 2], [1, 2, 3], {}, "rectangular"),
        (changed(np.nan), [0, 1, 2], [1, 2, 3], {}, "item 3, device 1 has nan"),
        (changed(-1.0), [0, 1, 2], [1, 2, 3], {}, "item 3, device 1 has -1"),
        (GOOD, [0, 1, 2], [1, 2, 3], {"features": np.ones((19, 2))}, r"features: expected the shape \(20, features\)"),
        (GOOD, [0, 1, 2], [1, 2, 3], {"features": np.full((20, 2), np.nan)}, "features: expected finite"),
        (GOOD, [0, 1, 2], [1, 2, 3], {"features": [["a"]] * 20}, "features: expected numbers"),
    ],
)
def test_bad_input(known: Any, probes: Any, ms: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        DeviceTransfer.fit(known, probes, ms, **options)


@pytest.mark.parametrize(
    ("known", "count", "message"),
    [
        (GOOD, 0, "1 … 20 can be chosen, not 0"),
        (GOOD, 21, "not 21"),
        (changed(0.0), 5, "item 3, device 1 has 0"),
        (GOOD[:, 0], 5, "expected the shape"),
    ],
)
def test_bad_choice(known: Any, count: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        choose_probes(known, count)


WIDTHS = tuple(range(4, 44))


def target(scale: float) -> FakeTarget:
    """Return a simulated device that is slower by a factor in all but its overhead."""
    return FakeTarget(sigma=0.005, ms_per_gmadd=scale)


Make = Callable[[Sequence[int], float], LatencyTable]


@pytest.fixture
def make(tmp_path: Path, make_table: Callable[..., LatencyTable]) -> Make:
    """Return a function that simulates a device's table; each device has reference speeds of its own."""
    return lambda widths, scale: make_table(widths, target=target(scale), reference=tmp_path / f"{scale}.json")


@pytest.fixture
def known(make: Make) -> list[LatencyTable]:
    """Tables of three devices of unlike speed."""
    return [make(WIDTHS, scale) for scale in (5.0, 20.0, 80.0)]


def test_tables_of_a_new_device(known: list[LatencyTable], make: Make) -> None:
    truth = target(40.0)
    new = make((4, 12, 20, 30, 43), 40.0)
    found = transfer_tables(known, new)
    assert list(found) == [conv(width) for width in WIDTHS if conv(width) not in new]
    off = [np.log(entry.ms / truth.true_ms(layer)) for layer, entry in found.items()]
    assert np.sqrt(np.mean(np.square(off))) < 0.1
    for layer, entry in found.items():
        assert entry.layer == layer
        assert 0 < entry.deviation < 1


def test_layers_that_only_some_tables_hold_are_left_out(known: list[LatencyTable], make: Make) -> None:
    fewer = make(range(10, 30), 10.0)
    found = transfer_tables([*known, fewer], make((12, 16, 20, 28, 60), 40.0))
    assert list(found) == [conv(width) for width in range(10, 30) if width not in (12, 16, 20, 28)]


def test_one_known_table(known: list[LatencyTable], make: Make) -> None:
    assert len(transfer_tables(known[:1], make((4, 20, 43), 40.0))) == len(WIDTHS) - 3


def test_a_new_device_of_which_all_is_known(known: list[LatencyTable]) -> None:
    assert transfer_tables(known[:2], known[2]) == {}


def test_bad_tables(known: list[LatencyTable], make: Make, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no known tables"):
        transfer_tables([], known[0])
    with pytest.raises(PredictorError, match=r"the new one holds 2 .*and 3 are needed. Measure some: ") as error:
        transfer_tables(known, make((4, 20, 70), 40.0))
    assert str(conv(20)) in str(error.value)
    with pytest.raises(PredictorError, match=r"the new one holds 0 \(none\)"):
        transfer_tables(known, make((70, 71, 72), 40.0))
    curve = curve_of((8, 9, 10), channels=3)
    plan, result, _ = simulate(curve.layers)
    stranger = table_of(plan, result, tmp_path / "stranger.json", [curve])
    with pytest.raises(PredictorError, match="the 2 known tables have no layer in common"):
        transfer_tables([known[0], stranger], known[1])


@pytest.mark.skipif(not (DATA / "latency_ms.csv.gz").exists(), reason=f"NAS-Bench-201's latencies are not at {DATA}")
@pytest.mark.parametrize("name", ["2080ti_256", "samsung_a50", "titanx_32"])
def test_ten_cells_rank_all_of_nas_bench_201(name: str) -> None:
    ms = pd.read_csv(DATA / "latency_ms.csv.gz", index_col=0).astype(float)
    # Not even the same card at another batch is known.
    card = name.rsplit("_", 1)[0]
    known = ms[[other for other in ms if not other.startswith(card + "_") and other != name]].to_numpy()
    truth = ms[name].to_numpy()
    probes = choose_probes(known, 10)
    found = DeviceTransfer.fit(known, probes, truth[probes]).predict()
    assert spearmanr(found.ms, truth).statistic >= 0.93
    assert np.mean(np.abs(np.log(found.ms / truth)) <= NINETY * found.deviation) > 0.75
