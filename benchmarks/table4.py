"""HTAS's Table 4 on this device: bases, TAS's published networks, and what hardware-aware widths alone do for these.

Four networks a depth, all measured in one interleaved session:

* base: ResNet-32, -56, -110 for 100 classes;
* TAS: the published network;
* friendly widths: the same depth and, within 1 %, the same multiply-adds, each width moved to a hardware-aware one near
  it. What it gains is due to the widths alone;
* any shape: depth and widths chosen anew among the hardware-aware ones for the least predicted latency at TAS's
  multiply-adds. **An upper bound and no result**: fewer and wider layers are always faster, and nothing says that such
  a network is as accurate. The paper's ratios, 2.2, 1.7 and 1.75, are between networks as accurate as TAS's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from _common import parser, print_table, write_results
from _search import EXPAND, load, space_of
from numpy.typing import NDArray

from lut import Network
from predictors import CompiledLatency, compile_madds
from predictors._compiled import CompiledSpace
from profiler import compare_networks
from search.spaces import ResNetCifar

DEPTHS = (110, 56, 32)
CLASSES = 100
AGREE = 0.01
PAPER = {110: (196.2, 113.6, 51.5), 56: (100.0, 59.1, 34.9), 32: (56.6, 42.8, 24.4)}
# The search for the fastest shape: its restarts, steps of each, changes looked at in each step, and by what factor a
# network counts as slower for each whole of the multiply-adds that it is off.
RESTARTS, STEPS, LOOKED_AT, PRICE = 10, 400, 256, 20.0


def widths_of(network: Network) -> dict[str, int]:
    """Return the widths that a search chooses, by layer."""
    return {
        item.name: item.layer.out_channels for item in network.layers if item.name == "stem" or ".conv" in item.name
    }


def vector_of(space: ResNetCifar, network: Network) -> NDArray[np.int64]:
    """Return the vector whose widths are nearest to a network's, of its depths."""
    widths = widths_of(network)
    vector = []
    for decision in space.choices:
        options = np.array(decision.options)
        if decision.kind == "depth":
            stage = decision.name.split(".")[0]
            wanted = len({name.split(".")[1] for name in widths if name.startswith(f"{stage}.")})
        else:
            # Blocks that the network does not have are left at any width.
            wanted = widths.get(decision.name, decision.options[0])
        vector.append(int(np.argmin(abs(options - wanted))))
    return np.array(vector)


def friendly(space: ResNetCifar, madds: CompiledSpace, network: Network) -> NDArray[np.int64]:
    """Return a network of the same depth and multiply-adds, its widths near the given ones and all in the space.

    Each width moves to the nearest option; then, one at a time, the move to a neighbouring option that brings the
    multiply-adds nearest to the network's, weighed against how far it moves the width.
    """
    own = widths_of(network)
    vector = vector_of(space, network)
    target = network.madds / 1e6
    searched = [d for d, decision in enumerate(space.choices) if decision.name in own]
    for _ in range(len(searched) * 4):
        off = float(madds.values(vector)[0]) / target - 1
        if abs(off) <= AGREE:
            return vector
        tried = []
        for d in searched:
            options = space.choices[d].options
            step = vector[d] + (-1 if off > 0 else 1)
            if 0 <= step < len(options):
                row = vector.copy()
                row[d] = step
                moved = abs(np.log(options[step] / own[space.choices[d].name]))
                after = abs(float(madds.values(row)[0]) / target - 1)
                tried.append((after + 0.02 * moved, d, row))
        if not tried:
            break
        vector = min(tried, key=lambda entry: entry[:2])[2]
    raise SystemExit(f"no network near {network.name} has its multiply-adds within {AGREE:.0%}")


def fastest(
    space: ResNetCifar, latency: CompiledLatency, madds: CompiledSpace, target: float, seed: int
) -> NDArray[np.int64]:
    """Return the vector of least latency that local search from many starts finds at the wanted multiply-adds.

    A step looks at random changes of one to three decisions and takes the best, by latency with a price on
    multiply-adds that are off by more than 1 %.
    """
    rng = np.random.default_rng(seed)
    sizes = np.array([len(decision.options) for decision in space.choices])

    def worth(rows: NDArray[np.int64]) -> NDArray[np.float64]:
        off = np.abs(madds.values(rows) / target - 1)
        return latency.latency(rows) * (1 + PRICE * np.maximum(0.0, off - 0.9 * AGREE))

    best, best_worth = rng.integers(sizes), float("inf")
    for _ in range(RESTARTS):
        vector = rng.integers(sizes)
        now = float(worth(vector[None])[0])
        for _ in range(STEPS):
            rows = np.repeat(vector[None], LOOKED_AT, axis=0)
            for _ in range(3):
                at = rng.integers(len(sizes), size=LOOKED_AT)
                changed = rng.random(LOOKED_AT) < 0.6
                rows[np.arange(LOOKED_AT)[changed], at[changed]] = rng.integers(sizes[at[changed]])
            found = worth(rows)
            if found.min() < now:
                vector, now = rows[int(found.argmin())], float(found.min())
        if now < best_worth:
            best, best_worth = vector, now
    if abs(float(madds.values(best)[0]) / target - 1) > AGREE:
        raise SystemExit("no shape has the wanted multiply-adds")
    return best


def main() -> None:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--table", type=Path, required=True, help="a table of profile-device on this machine")
    options.add_argument("--measure-seconds", type=float, default=300.0)
    given = options.parse_args()
    table, predictor = load(given.table)
    networks: list[Network] = []
    changed: dict[int, float] = {}
    for depth in DEPTHS:
        space = space_of("hardware", table, depth, CLASSES)
        latency, madds = predictor.compile(space), compile_madds(space)
        published = space.published()
        base, tas = published[f"base-c100-r{depth}"](), published[f"tas-c100-r{depth}"]()
        moved = space.decode(friendly(space, madds, tas).tolist())
        shape = space.decode(fastest(space, latency, madds, tas.madds / 1e6, seed=depth).tolist())
        kinds = zip(("base", "TAS", "friendly", "any"), (base, tas, moved, shape), strict=True)
        networks += [Network(f"{depth} {kind}", network.layers) for kind, network in kinds]
        was, now = widths_of(tas), widths_of(moved)
        changed[depth] = float(np.mean([abs(now[name] / was[name] - 1) for name in was]))
    compared = compare_networks(
        networks, setting=predictor.setting, device=predictor.device, time_budget_s=given.measure_seconds
    )
    seen = {network.name: network for network in compared.networks}
    rows, figures = [], []
    for network in networks:
        depth, kind = network.name.split()
        ratio = compared.ratio(f"{depth} TAS", network.name)
        predicted = predictor.predict(network)
        rows.append(
            [
                network.name,
                f"{network.madds / 1e6:.1f}",
                f"{network.parameters / 1e6:.3f}",
                str(sum(".conv" in item.name for item in network.layers) + 2),
                f"{predicted.ms:.2f}",
                f"{seen[network.name].ms:.2f}",
                f"{predicted.ms / seen[network.name].ms - 1:+.1%}",
                f"{ratio.value:.2f} ({ratio.low:.2f}–{ratio.high:.2f})",
            ]
        )
        figures.append(_figures(network, predicted, seen[network.name], ratio, kind))
    header = ["network", "M madds", "M params", "layers", "predicted", "measured ms", "off by", "TAS takes, times"]
    print_table(f"{predictor.setting}; e = {EXPAND:g}, g = 8", header, rows)
    print("any: an upper bound of what shape can do at these multiply-adds; its accuracy is not known")
    for depth, (base_ms, tas_ms, htas_ms) in PAPER.items():
        mine = compared.ratio(f"{depth} base", f"{depth} TAS").value
        print(
            f"ResNet-{depth}: base / TAS {mine:.2f} here, {base_ms / tas_ms:.2f} in the paper; TAS / HTAS there "
            f"{tas_ms / htas_ms:.2f}; widths moved by {changed[depth]:.0%} on average"
        )
    write_results(
        given.results,
        f"table4_{predictor.setting.target}_b{predictor.setting.batch}",
        {
            "setting": str(predictor.setting),
            "networks": figures,
            "moved_on_average": changed,
            "paper_ms": {depth: dict(zip(("manual", "tas", "htas"), ms, strict=True)) for depth, ms in PAPER.items()},
            "warnings": compared.warnings,
        },
    )


def _figures(network: Network, predicted: Any, seen: Any, ratio: Any, kind: str) -> dict[str, Any]:
    return {
        "name": network.name,
        "kind": kind,
        "madds": network.madds,
        "parameters": network.parameters,
        "predicted_ms": predicted.ms,
        "predicted_high_ms": predicted.high_ms,
        "outside": predicted.outside,
        "measured_ms": seen.ms,
        "measured_low_ms": seen.low_ms,
        "measured_high_ms": seen.high_ms,
        "times_as_fast_as_tas": ratio._asdict(),
        "projections": sum(item.name.endswith(".shortcut") for item in network.layers),
        "widths": widths_of(network),
    }


if __name__ == "__main__":
    main()
