"""What listening to the table gains: networks moved to their layers' friendly widths, measured whole before and after.

Each network is pruned as one would that knows nothing of latency: every group of layers that must be equally wide keeps
a random share of its channels. Its layers are swept, and each group moves to the friendly width nearest to its own. The
control has the same multiply-adds, at widths beside the friendly ones: what it takes more is not more work, but where
its widths lie. All three are measured whole in one session, another than that of the sweep: what was friendly by
luck alone is not so again.

A group is judged by the swept layer of it that takes the most time; a group whose layers have no friendly width within
reach keeps its width in all three. How accurate the networks would be is not looked at.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from math import expm1, hypot
from pathlib import Path
from statistics import NormalDist
from typing import Any, NamedTuple

import msgspec
import torch
from _common import parser, print_table, write_results
from _zoo import INPUTS, ZOO

from lut import LatencyTable, Network
from lut._files import read_bytes, write_atomically
from lut._statistics import log_standard_error
from lut.errors import LatencyLutError
from predictors import width_gains
from predictors._gains import WidthGain
from predictors._tied_widths import WidthGroup, rewidth, width_groups
from profiler import profile
from profiler._sources import Subject
from profiler._sweep import sweep_curves
from profiler._trace import trace
from profiler._workload import LAYERS_A_SECOND, Workload

NETWORKS = ("resnet18", "mobilenet_v1", "mobilenet_v2")
VERSIONS = ("pruned", "friendly", "unfriendly")
# The share of its channels that a pruned group keeps.
KEPT = (0.6, 0.95)
# How far from its own a group's friendly width may lie: as far as width_gains looks, but of few channels no further
# than half a stair of eight, so that one of its ends is always in reach and no group is halved.
REACH, LEAST_REACH = 0.25, 4
# An unfriendly width lies this close to the friendly one, as a share of it, and in channels: no further than the width
# of a stair, so that the two networks are alike but for where on the stair they stand.
BESIDE, LEAST_BESIDE, MOST_BESIDE = 0.1, 2, 7
# The control's multiply-adds are looked for until they differ by less than a latency could show, in so many tries.
MADDS_AGREE, MOST_TRIES = 0.001, 2000
# Of the intervals printed beside differences.
LEVEL = 0.95


class Choice(NamedTuple):
    """Where a group of layers goes: ``layer`` is the one it is judged by, widths are in channels."""

    layer: str
    own: int
    friendly: int
    friendly_channels: tuple[int, ...]


def pruned_widths(groups: Sequence[WidthGroup], rng: random.Random) -> dict[int, int]:
    """Return each group's width times a random share, in whole channels."""
    return {i: _allowed(group, group.width * rng.uniform(*KEPT)) for i, group in enumerate(groups)}


def _allowed(group: WidthGroup, wanted: float) -> int:
    """Return the width nearest to the wanted one that the group can have."""
    return max(round(wanted / group.multiple), -(-group.least // group.multiple)) * group.multiple


def choices(network: Network, gains: Sequence[WidthGain]) -> dict[int, Choice]:
    """Return where the network's groups go, by number; those without a friendly width in reach are left out."""
    by_name = {name: gain for gain in gains for name in gain.modules}
    found: dict[int, Choice] = {}
    for number, group in enumerate(width_groups(network)):
        judge = next((by_name[name] for name in group.layers if name in by_name), None)
        if judge is None:
            continue
        reach = max(REACH * group.width, LEAST_REACH)
        near = [
            width
            for width in judge.friendly_channels
            if abs(width - group.width) <= reach and width >= group.least and width % group.multiple == 0
        ]
        if near:
            # Of two as near the wider one: its channels cost little.
            nearest = min(near, key=lambda width: (abs(width - group.width), -width))
            found[number] = Choice(judge.name, group.width, nearest, judge.friendly_channels)
    return found


def beside(group: WidthGroup, choice: Choice) -> tuple[int, ...]:
    """Return the widths close to a group's friendly one that are not friendly: odd ones where there are any."""
    furthest = min(max(BESIDE * choice.friendly, LEAST_BESIDE), MOST_BESIDE)
    steps = range(-int(max(furthest, group.multiple)), int(max(furthest, group.multiple)) + 1)
    widths = [choice.friendly + step for step in steps]
    possible = [
        width
        for width in widths
        if width >= group.least and width % group.multiple == 0 and width not in choice.friendly_channels
    ]
    return tuple(width for width in possible if width % 2) or tuple(possible)


def unfriendly_widths(network: Network, chosen: Mapping[int, Choice], rng: random.Random) -> dict[int, int]:
    """Return widths beside the friendly ones with which the network has the friendly one's multiply-adds.

    A random draw of each, then one group after another drawn anew and kept unless that leads away; if no try agrees,
    the nearest.

    Args:
        network: the pruned one.
        chosen: where its groups go.
        rng: of the draws.
    """
    wanted = rewidth(network, {number: choice.friendly for number, choice in chosen.items()}).madds
    groups = width_groups(network)
    possible = {number: beside(groups[number], choice) for number, choice in chosen.items()}
    possible = {number: widths for number, widths in possible.items() if widths}
    best = {number: choice.friendly for number, choice in chosen.items()}
    best.update({number: rng.choice(widths) for number, widths in possible.items()})
    error = abs(rewidth(network, best).madds / wanted - 1)
    for _ in range(MOST_TRIES):
        if error <= MADDS_AGREE or not possible:
            break
        number = rng.choice(list(possible))
        other = {**best, number: rng.choice(possible[number])}
        its_error = abs(rewidth(network, other).madds / wanted - 1)
        if its_error <= error:
            best, error = other, its_error
    return best


def traced(name: str, size: int | None) -> Network:
    """Return a network of the zoo, layer by layer; ``size``: of its input in pixels, by default its own."""
    channels, *own = INPUTS[name]
    shape = (1, channels, *((size, size) if size is not None else own))
    torch.manual_seed(0)
    return trace(ZOO[name](), (torch.zeros(shape),), name=name).network


def measure(
    name: str,
    kept: Path,
    *,
    size: int | None,
    seed: int,
    expand: float,
    budget_s: float,
    whole_budget_s: float,
    threads: int,
) -> dict[str, Any]:
    """Return what one network takes pruned, at friendly widths and at unfriendly ones.

    ``kept``: the file of the result. The tables stand beside it, as do an interrupted session's visits; the sweep's
    serves any budget of the wholes.
    """
    original = traced(name, size)
    before = width_groups(original)
    rng = random.Random(f"{name}-{seed}")
    pruned = rewidth(original, pruned_widths(before, rng))
    shared: dict[str, Any] = {
        "target": "cpu",
        "batch": 1,
        "threads": threads,
        "options": {"context": "network"},
        "seed": seed,
    }
    asked = _tag(name, size, seed, threads, expand, budget_s)
    table = _swept(pruned, kept.with_name(f"{asked}-sweep.json"), expand=expand, time_budget_s=budget_s, shared=shared)
    chosen = choices(pruned, width_gains(table, pruned, reach=REACH))
    widths = {
        "pruned": {number: choice.own for number, choice in chosen.items()},
        "friendly": {number: choice.friendly for number, choice in chosen.items()},
        "unfriendly": unfriendly_widths(pruned, chosen, rng),
    }
    networks = {
        version: msgspec.structs.replace(rewidth(pruned, widths[version]), name=f"{name} {version}")
        for version in VERSIONS
    }
    wholes = _kept_or_measured(
        kept.with_name(f"{kept.stem}-wholes.json"),
        networks=list(networks.values()),
        time_budget_s=whole_budget_s,
        **shared,
    )
    groups = width_groups(pruned)
    return {
        "name": name,
        "input": list(pruned.layers[0].layer.inputs[0]),
        "setting": str(wholes.setting),
        "seed": seed,
        "original_madds": original.madds,
        "sweep": {
            "curves": len(table.curves),
            "layers": len(table),
            "converged": sum(measurement.converged for measurement in table.values()),
            "seconds": table.sessions[0].measuring_s,
        },
        "groups": [
            {
                "layers": group.layers,
                "original": before[number].width,
                "judged_by": chosen[number].layer if number in chosen else None,
                "friendly_channels": chosen[number].friendly_channels if number in chosen else None,
                **{version: widths[version].get(number, group.width) for version in VERSIONS},
            }
            for number, group in enumerate(groups)
        ],
        "judged": len(chosen),
        "moved": sum(choice.friendly != choice.own for choice in chosen.values()),
        "versions": {version: _version(wholes, networks[version]) for version in VERSIONS},
        "other_state": any("other_state" in m.flags for m in wholes.values()),
    }


def _tag(name: str, size: int | None, *asked: float) -> str:
    """Return a file's name that says what was asked: what was measured for another question is not taken for this."""
    return "-".join([name, str(size or "own"), *(f"{number:g}" for number in asked)])


def _swept(
    pruned: Network, output: Path, *, expand: float, time_budget_s: float, shared: dict[str, Any]
) -> LatencyTable:
    """Return a table of the network's layers over their widths, as fine as the command would make it."""
    own = len({item.layer for item in pruned.layers})
    sweep = sweep_curves(pruned, expand=expand, most_layers=max(0, int(LAYERS_A_SECOND * time_budget_s) - own))
    return _kept_or_measured(
        output,
        Workload(sweep.layers, sweep.curves, (Subject(pruned, None),), swept=True),
        time_budget_s=time_budget_s,
        **shared,
    )


def _kept_or_measured(output: Path, what: Any, **asked: Any) -> LatencyTable:
    if output.exists():
        return LatencyTable.from_json(read_bytes(output), source=str(output))
    return profile(what, output=output, **asked)


def _version(table: LatencyTable, network: Network) -> dict[str, Any]:
    record = next(record for record in table.networks if record.name == network.name)
    if record.end_to_end is None:
        raise SystemExit(f"{network.name}: {record.reason}; a longer --whole-budget goes on from the sweep")
    whole = record.end_to_end
    return {
        "madds": network.madds,
        "parameters": network.parameters,
        "whole_ms": whole.median_ms,
        "within_run": whole.within_run,
        "repeat_error": whole.repeat_error,
        "visits": len(whole.visits.raw_ms),
        "flags": whole.flags,
        "sum_ms": table.sum_ms(record),
    }


def comparison(versions: Mapping[str, Any], first: str, second: str) -> dict[str, float | None]:
    """Return by which share the first version differs from the second.

    ``measured`` is of whole networks, and ``half_width`` half its interval at :data:`LEVEL`, from their within-run
    intervals; ``predicted`` is of the sums of their layers, ``per_madd`` of measured time per multiply-add.
    """
    a, b = versions[first], versions[second]
    error = hypot(*(log_standard_error(**_interval(version["within_run"])) for version in (a, b)))
    sums = (a["sum_ms"], b["sum_ms"])
    measured = a["whole_ms"] / b["whole_ms"]
    madds = a["madds"] / b["madds"]
    return {
        "madds": round(madds - 1, 5),
        "measured": round(measured - 1, 5),
        "half_width": round(measured * expm1(NormalDist().inv_cdf(0.5 + LEVEL / 2) * error), 5),
        "predicted": None if None in sums else round(sums[0] / sums[1] - 1, 5),
        "per_madd": round(measured / madds - 1, 5),
    }


def _interval(found: Mapping[str, float]) -> dict[str, float]:
    return {"low": found["low_ms"], "high": found["high_ms"], "level": found["level"]}


def _print(results: Sequence[dict[str, Any]]) -> None:
    rows: list[Sequence[object]] = []
    for r in results:
        for version, v in r["versions"].items():
            within = v["within_run"]
            rows.append(
                (
                    f"{r['name']} {version}",
                    f"{v['madds'] / 1e6:.1f}",
                    f"{v['whole_ms']:.3f}",
                    f"{within['low_ms']:.3f}–{within['high_ms']:.3f}",
                    "–" if v["repeat_error"] is None else f"{v['repeat_error']:.1%}",
                    "–" if v["sum_ms"] is None else f"{v['sum_ms']:.3f}",
                )
            )
    header = ("network", "M madds", "whole ms", "within run", "repeats", "layers ms")
    print_table("Whole networks, three a session", header, rows)
    rows = []
    for r in results:
        for other in VERSIONS[::2]:
            c = r[f"friendly_vs_{other}"]
            rows.append(
                (
                    f"{r['name']} against {other}",
                    f"{r['moved' if other == VERSIONS[0] else 'judged']} of {len(r['groups'])}",
                    f"{c['madds']:+.1%}",
                    f"{c['measured']:+.1%}",
                    f"± {c['half_width']:.1%}",
                    "–" if c["predicted"] is None else f"{c['predicted']:+.1%}",
                )
            )
    header = ("friendly widths", "groups", "madds", "latency", "", "predicted")
    print_table("What friendly widths change", header, rows)


def main() -> None:
    """Measure every network, one after another."""
    made = parser(__doc__)
    made.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(ZOO), metavar="NAME")
    made.add_argument(
        "--size", type=int, default=None, help="pixels of the input's sides; by default the network's own"
    )
    made.add_argument("--seed", type=int, default=0, help="of the widths, and of the profiler")
    made.add_argument(
        "--expand", type=float, default=1.3, help="the widest layer of a sweep, over the layer's own width"
    )
    made.add_argument("--budget", type=float, default=150.0, help="seconds for a network's sweep")
    made.add_argument("--whole-budget", type=float, default=60.0, help="seconds for its three versions")
    made.add_argument("--threads", type=int, default=1, help="1 leaves a core to the system")
    made.add_argument("--folder", type=Path, default=Path("pruning"), help="what was measured: tables, and results")
    given = made.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    results = []
    for name in given.networks:
        # What was measured by an interrupted run is kept, for the same question.
        asked = (given.size, given.seed, given.threads, given.expand, given.budget, given.whole_budget)
        kept = given.folder / f"{_tag(name, *asked)}.json"
        if not kept.exists():
            print(f"{name} …", flush=True)
            found = measure(
                name,
                kept,
                size=given.size,
                seed=given.seed,
                expand=given.expand,
                budget_s=given.budget,
                whole_budget_s=given.whole_budget,
                threads=given.threads,
            )
            write_atomically(kept, msgspec.json.encode(found))
        result = msgspec.json.decode(kept.read_bytes())
        result["friendly_vs_pruned"] = comparison(result["versions"], "friendly", "pruned")
        result["friendly_vs_unfriendly"] = comparison(result["versions"], "friendly", "unfriendly")
        results.append(result)
    _print(results)
    write_results(given.results, "pruning", {"results": results})


if __name__ == "__main__":
    try:
        main()
    except LatencyLutError as error:
        raise SystemExit(f"error: {error}") from None
