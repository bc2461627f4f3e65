"""Write docs/evidence.md from the results: every figure with its command, its file and its machine.

Nothing is measured. A test holds the page against the results.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

from _pages import Section, filled, machine_of, percent, signed, table
from _search_evidence import SECTIONS as SEARCHES

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "evidence.md"
RESULTS = ROOT / "benchmarks" / "results"

HEAD = """# Evidence

What the tool claims, by how it was measured. Each figure stands in a results file that a command wrote, on the machine
that is named with it; `python benchmarks/evidence.py` writes this page from those files, and a test holds the two
together. Where an aim was missed, the figure that was reached stands here. More of searches: [HTAS](htas.md),
[RCAS](rcas.md). Machines by their self-tests: [hardware](hardware.md).

"""


def untuned(*results: dict[str, Any]) -> list[str]:
    """Return a row for each setting of each machine."""
    rows = []
    for found in results:
        for setting, s in found["summaries"].items():
            if not s["networks"]:
                continue
            few = f", {len(s['too_few_visits'])} of under four visits" if s["too_few_visits"] else ""
            lost = f", {len(s['missing'])} not measured" if s["missing"] else ""
            worst = max(
                (
                    (abs(r["sum_ms"] / r["whole_ms"] - 1), r["name"])
                    for r in found["results"].get(setting, [])
                    if r.get("sum_ms")
                ),
                default=(0.0, "–"),
            )
            rows.append(
                [
                    found["machine"]["model"],
                    setting.replace(", all,", ","),
                    f"{s['networks']}{few}{lost}",
                    signed(s["bias"]),
                    percent(s["mean_error"], 1),
                    f"{signed(s['worst'])} ({worst[1]})",
                    f"{percent(s['within_5_percent'])}, {percent(s['within_10_percent'])}",
                ]
            )
    return [table(("machine", "setting", "networks", "bias", "mean error", "worst", "within ±5 %, ±10 %"), rows)]


def real(found: dict[str, Any]) -> list[str]:
    """Return a row for each kind of sum and target."""
    names = {"isolated_ms": "isolated", "in_context_ms": "in context", "calibrated_ms": "calibrated on the others"}
    rows = [
        [
            target,
            names[column],
            str(s["networks"]),
            percent(s["mape"], 1),
            percent(s["worst"], 1),
            f"{percent(s['within_5_percent'])}, {percent(s['within_10_percent'])}",
        ]
        for target, sums in found["summaries"].items()
        for column, s in sums.items()
    ]
    return [table(("target", "sum of layers", "networks", "mean error", "worst", "within ±5 %, ±10 %"), rows)]


SPACES = {"resnet": "CIFAR ResNets", "mobile": "inverted residuals, 96×96", "macro": "NAS-Bench-Macro"}


def spaces(found: dict[str, Any]) -> list[str]:
    """Return a row for each target and space."""
    rows = []
    for r in found["results"]:
        sums = [f"{r[k]['median']:.2f} ({r[k]['p5']:.2f} … {r[k]['p95']:.2f})" for k in ("isolated", "in_context")]
        within = f"{percent(r['in_context']['within_5_percent'])}, {percent(r['in_context']['within_10_percent'])}"
        repeat = percent(r["whole_repeat_error"], 1)
        rows.append(
            [r["setting"].partition(", float32")[0], SPACES[r["space"]], str(r["networks"]), *sums, within, repeat]
        )
    header = ("setting", "space", "networks", "isolated", "in context", "within ±5 %, ±10 %", "wholes repeat within")
    return [table(header, rows)]


def runs(*results: dict[str, Any]) -> list[str]:
    """Return a row for each machine, instruction set and version of the tool."""
    rows = []
    for found in results:
        for instructions, versions in found["results"].items():
            for version, r in versions.items():
                made, pairs = r["runs"], r["pairs"]

                def mean(key: str, of: Sequence[dict[str, Any]] = pairs) -> str:
                    values = [pair[key] for pair in of if pair.get(key) is not None]
                    return percent(fmean(values), 1) if values else "–"

                biases = [run["audit_bias"] for run in made if run["audit_bias"] is not None]
                rows.append(
                    [
                        found["machine"]["model"],
                        f"{'default' if instructions == 'all' else instructions}, "
                        + (f"commit {found['against']}" if version == "before" else "this version"),
                        f"{len(made)} of {median(run['wall_s'] for run in made):.0f} s",
                        f"±{percent(median(run['half_width'] for run in made), 1)}",
                        mean("difference"),
                        f"{mean('inside_neighbours')}, {mean('inside_range')}",
                        f"{median(run['open_groups'] for run in made):g} of {made[0]['groups']}",
                        f"{r['choices']['agree']} of {r['choices']['of']}",
                        signed(fmean(biases)) if biases else "–",
                        percent(median(run["drift"] for run in made)),
                    ]
                )
    header = (
        *("machine", "instructions, version", "runs", "half-width", "two runs differ by", "neighbours, range inside"),
        *("choices open", "closed ones agree", "sums off by", "machine's drift"),
    )
    return [table(header, rows)]


OURS = "ours"


def predictions(found: dict[str, Any]) -> list[str]:
    """Return a row for each target and space: ours and the best of the peers."""
    rows = []
    for r in found["results"]:
        by_share = r["methods"]
        every = by_share["all layers"]
        peers = {name: s["mape"] for name, s in every.items() if isinstance(s, dict) and not name.startswith(OURS)}
        best = min(peers, key=lambda name: peers[name])
        isolated = every["ours: isolated layers, calibrated"]
        few = next((methods[OURS] for name, methods in by_share.items() if name != "all layers"), None)
        ours = every[OURS]
        splits = [s for s in ours.get("over_splits", []) if s["learnt_from"] == r["networks"]["learnt_from"]]
        held = splits[0]["coverage"] if splits else {}
        rows.append(
            [
                f"{r['target']}, {SPACES[r['space']]}",
                f"{r['networks']['learnt_from']}, {r['networks']['predicted']}",
                percent(r["repeat_error"], 1),
                f"{percent(peers[best], 1)} ({best})",
                percent(isolated["mape"], 1),
                percent(ours["mape"], 1),
                "–" if few is None else percent(few["mape"], 1),
                ", ".join(percent(each["mean"]) for each in held.values()) or "–",
            ]
        )
    header = (
        *("target, space", "networks learnt from, predicted", "wholes repeat within", "best peer"),
        *("isolated layers, calibrated", "ours, fit to all layers", "ours, fit to a tenth of them"),
        "90 %, 95 % intervals hold",
    )
    return [table(header, rows)]


RULES = {
    "ours": "**latency-lut**",
    "ours+network": "**latency-lut, in context**",
    "do_bench": "triton's `do_bench`",
    "blocked_autorange": "`blocked_autorange`",
    "adaptive_autorange": "`adaptive_autorange`",
    "timm": "timm's",
    "htas_mean": "mean, back to back (HTAS)",
}
OWN_SETTINGS = "+kept"


def repeats(*results: dict[str, Any]) -> list[str]:
    """Return a table for each file: how far two repeats differ, by rule."""
    found = []
    for result in results:
        rows = []
        for rule in result["figures"]["quiet"]:
            name = rule.removesuffix(OWN_SETTINGS)
            row = [RULES.get(name, name) + ", in our process settings" * rule.endswith(OWN_SETTINGS)]
            for hour in ("quiet", "hogged"):
                f = result["figures"][hour][rule]
                row += [
                    f"{f['absolute_median_percent']:.2f} %",
                    f"{f['relative_median_percent']:.2f} %",
                    f"{f['kendall_tau']:.2f}",
                ]
            rows.append(row)
        header = ("rule", "quiet: absolute", "relative", "τ", "hogged: absolute", "relative", "τ")
        about = f"{result['repeats']} repeats, {result['threads']} thread{'s' * (result['threads'] > 1)}, "
        found.append(f"{about}{result['seconds_per_width']} s a width:\n\n" + table(header, rows))
    return found


def coverage(found: dict[str, Any]) -> list[str]:
    """Return a row for each kind of noise."""
    rows = [
        [name, *(f"{f[k]:.1f} %" if f.get(k) is not None else "–" for k in keys)]
        for keys in [("held_or_flagged_percent", "coverage_percent", "neighbours_percent", "flagged_percent")]
        for name, f in found["figures"].items()
    ]
    return [table(("sessions", "held or flagged", "held", "neighbours' differences held", "flagged"), rows)]


def pruned(found: dict[str, Any]) -> list[str]:
    """Return a row for each network."""

    def against(r: dict[str, Any], other: str) -> str:
        pair = r[f"friendly_vs_{other}"]
        return f"{signed(pair['measured'])} ± {percent(pair['half_width'], 1)}"

    rows = [
        [
            r["name"].replace("_", " "),
            *(f"{v['madds'] / 1e6:.0f} M, {v['whole_ms']:.2f}" for v in r["versions"].values()),
            against(r, "unfriendly"),
            signed(r["friendly_vs_unfriendly"]["predicted"]),
            against(r, "pruned"),
        ]
        for r in found["results"]
    ]
    header = (
        *("network", *(f"{version}: MAdds, ms" for version in found["results"][0]["versions"])),
        *("friendly against unfriendly", "predicted", "friendly against pruned"),
    )
    return [table(header, rows)]


def added(found: dict[str, Any]) -> list[str]:
    """Return what the tool itself adds to a call."""
    rows = [
        [name, f"{f['added_us_per_call']:.2f} µs", percent(f["share_of_0.1_ms"], 1)]
        for name, f in found["figures"].items()
    ]
    return [table(("target, context", "added to a call", "share of a call of 0.1 ms"), rows)]


def paper(time: dict[str, Any], widths: dict[str, Any]) -> list[str]:
    """Return the comparison with HTAS's way of measuring, and the widths that three runs chose."""
    rows = [
        [
            name,
            f"{f['seconds']:.0f} s",
            f"{f['absolute_median_percent']:.1f} %",
            f"{f['relative_median_percent']:.1f} %",
        ]
        for name, f in time["figures"].items()
    ]
    s = widths["summary"]
    text = (
        f"Widths by three default runs: the same in {s['same_in_all_runs']} of {s['groups']} groups, within one "
        f"channel in {s['within_one_channel']}; of {s['disputed']} disputed choices "
        f"{s['disputed_and_said_to_be_unsure']} had been marked unsure. {s['equal_to_paper_cpu']} equal the paper's "
        f"for its CPU, {s['equal_to_paper_gpu']} its GPU's; {s['multiples_of_8']} are multiples of 8."
    )
    return [table(("rule, 224 layers", "time", "two repeats differ by", "with one factor removed"), rows), filled(text)]


SECTIONS = (
    Section(
        "Do layers add up? Networks that nobody tuned on",
        "Networks of pytorchcv, each set named before it was first measured. Each was traced, then its layers and "
        "the whole measured in one session of 20 s, of 60 s where that gave the whole fewer than four visits. "
        "Nothing is fitted to any whole. The aim: nine in ten within ±5 %, all within ±10 %. The ONNX rows of the "
        "Xeon were taken before the last fault was mended, of activations that the runtime does not fold; ESPNetv2 "
        "is PReLU, which the runtime runs slower on mixed signs ([limits](onnx.md#limits)). Wholes of batch 4 take "
        "up to 170 ms: a handful of visits, too few to tell the method's error from the machine's.",
        "python benchmarks/untuned_networks.py --seconds 20",
        ("untuned_networks.json", "untuned_networks_epyc.json"),
        untuned,
    ),
    Section(
        "Do layers add up? Real networks",
        "ResNet-18 to ViT-Tiny, a language model and files of the ONNX model zoo, batch 1, one thread, 20 s each "
        "(DenseNet-121 in ONNX Runtime 40 s); none left out. [Network by "
        "network](profile-your-model.md#how-well-do-the-sums-hold).",
        "python benchmarks/real_models.py --budget 20 --isolated-budget 6",
        ("real_models.json",),
        real,
    ),
    Section(
        "Do layers add up? A hundred random networks of three spaces",
        "Ratio of sum to whole: median, 5th to 95th percentile. The aim: a bias within ±2 % in every space. Where "
        "the wholes repeat within 5 to 17 % only, little more can be said.",
        "python benchmarks/additivity.py --seconds 120",
        ("additivity.json",),
        spaces,
    ),
    Section(
        "How sharp is the default command?",
        "Runs of the README's first command; versions of one file took turns. *half-width*: median over the layers "
        "of the 95 % interval. *inside*: ratios of neighbouring widths, and of widths half a curve apart, that "
        "another run found within the intervals. *closed ones agree*: of the choices that neither of two runs "
        "called open, both chose the same width, the one beside it, or another that neither could tell from it. The "
        "aims: ±3 %, 93 to 97 % inside, a quarter of the choices open.",
        "python benchmarks/default_run.py --against 7b46fa5 --runs 3",
        ("default_run.json", "default_run_epyc.json"),
        runs,
    ),
    Section(
        "How sharp is --quick?",
        "Half a minute, no audit.",
        "python benchmarks/default_run.py --quick --runs 2",
        ("quick_run.json",),
        runs,
    ),
    Section(
        "Networks whose whole was never seen",
        "A predictor fitted to a table and some networks, others of the same session predicted, one thread; beside "
        "it the best of five peers' methods on the same measurements (multiply-adds, sums of isolated layers, "
        "nn-Meter's forests, once-for-all's table of blocks, perceptrons on encodings). The peers' sums are taken "
        "as they stand, and ours are calibrated on the networks learnt from. So sums of isolated layers, calibrated "
        "in the same way, stand beside them: they do about as well. What latencies in context buy is a sum that "
        "holds without a calibration: [more](predict.md#how-well-it-does).",
        "python benchmarks/prediction.py",
        ("prediction.json",),
        predictions,
    ),
    Section(
        "How far do two measurements agree?",
        "49 neighbouring widths in fresh processes; *hogged*: besides, one busy process per core for a third of the "
        "time. Median difference between two repeats, absolute and with one common factor removed, and Kendall's τ. "
        "First as the peers measure, isolated; then two peers in our process settings (freed memory kept, pinned); "
        "then in context. Taken before the method of today.",
        "python benchmarks/repeatability.py [--settings | --context]",
        ("repeatability.json", "repeatability_settings.json", "repeatability_context.json"),
        repeats,
    ),
    Section(
        "Do 95 % intervals hold?",
        "Simulated sessions, whose truth is known, and sessions of one machine, each held against the others. Where "
        "the noise is what the method models (log-normal, spikes, a swing that layers share), intervals hold what "
        "they promise. Elsewhere they do not: layers that drift by themselves are held too seldom, and hardly any "
        "of them is flagged; layers with two modes are held too seldom, and flagged; where visits resemble their "
        "neighbours (AR(1)) intervals hold, and are flagged nearly always. On the machine intervals within a run "
        "are too narrow, and those across runs wide.",
        "python benchmarks/coverage.py",
        ("coverage.json",),
        coverage,
    ),
    Section(
        "What does listening to the table buy?",
        "Networks as a pruner leaves them, at random widths; each width moved to the nearest friendly one of its "
        "sweep, and beside these at the same multiply-adds.",
        "python benchmarks/pruning.py",
        ("pruning.json",),
        pruned,
    ),
    Section(
        "What does the tool itself add?",
        "To a call of 0.1 ms.",
        "python benchmarks/overhead.py",
        ("overhead.json",),
        added,
    ),
    Section(
        "Against the paper's way of measuring",
        "The 224 layers of HTAS's curves, isolated: the paper's 2,000 calls a layer, and ours.",
        "python benchmarks/time_to_table.py; python benchmarks/widths.py",
        ("time_to_table.json", "widths.json"),
        paper,
    ),
)


def page(results: Path = RESULTS) -> str:
    """Return the page's content."""
    parts = [HEAD]
    for section in (*SECTIONS, *SEARCHES):
        found = [json.loads((results / name).read_bytes()) for name in section.files]
        machines = dict.fromkeys(machine_of(each) for each in found)
        parts.append(
            f"## {section.title}\n\n{filled(section.text)}\n\n`{section.command}`\n→ "
            + ", ".join(f"`benchmarks/results/{name}`" for name in section.files)
            + f" · {'; '.join(machines)}\n\n"
            + "\n\n".join(section.tables(*found))
            + "\n\n"
        )
    return "".join(parts).rstrip() + "\n"


def main() -> None:
    """Write the page."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    PAGE.write_text(page(), encoding="utf-8")
    print(f"{PAGE} written")


if __name__ == "__main__":
    main()
