"""Networks that others wrote: what their layers add up to, against what they take as a whole.

Networks of pytorchcv, written by others, go through the tool as a user's would: traced, then their layers and the
whole in one session of some seconds, on each target, batch and number of threads; and again with the libraries kept to
AVX2 where the CPU has more, one thread. A network whose whole had too few visits is measured again for three times as
long. Nothing is calibrated. Each set was named before it was first measured. On the first thirty, and on two of the
fourth ten, faults of the target ``onnx`` were found, so that its figures there are no longer those of networks never
seen. Of the fifth ten ESPNetv2 was looked into, and how few visits heavy networks had; nothing of the method was
changed for either. Needs ``pip install --no-deps pytorchcv``, and says so where it is missing.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean, median
from typing import Any

import msgspec
from _common import parser, print_table, write_results
from _isa import AVX2

# By factory: the module of pytorchcv.models, and the image's size.
FIRST = {
    "resnet20_cifar10": ("resnet_cifar", 32),
    "preresnet20_cifar10": ("preresnet_cifar", 32),
    "densenet40_k12_cifar10": ("densenet_cifar", 32),
    "mobilenet_wd2": ("mobilenet", 224),
    "mobilenetv2_wd2": ("mobilenetv2", 224),
    "shufflenetv2_wd2": ("shufflenetv2", 224),
    "squeezenet_v1_1": ("squeezenet", 224),
    "efficientnet_b0": ("efficientnet", 224),
    "mnasnet_small": ("mnasnet", 224),
    "ghostnet": ("ghostnet", 224),
    "seresnet20_cifar10": ("seresnet_cifar", 32),
    "resnet18_wd4": ("resnet", 224),
    "regnetx002": ("regnet", 224),
    "mobilenetv3_small_w1": ("mobilenetv3", 224),
    "proxylessnas_cpu": ("proxylessnas", 224),
    "fbnet_cb": ("fbnet", 224),
    "spnasnet": ("spnasnet", 224),
    "sqnxt23_w1": ("squeezenext", 224),
    "peleenet": ("peleenet", 224),
    "hardnet39ds": ("hardnet", 224),
    "sepreresnet20_cifar10": ("sepreresnet_cifar", 32),
    "resneta10": ("resneta", 224),
    "igcv3_wd4": ("igcv3", 224),
    "fdmobilenet_w1": ("fdmobilenet", 224),
    "shufflenet_g3_w1": ("shufflenet", 224),
    "menet108_8x1_g3": ("menet", 224),
    "darknet_tiny": ("darknet", 224),
    "squeezeresnet_v1_1": ("squeezenet", 224),
    "vovnet27s": ("vovnet", 224),
    "mixnet_s": ("mixnet", 224),
}
FOURTH = {
    "nin_cifar10": ("nin_cifar", 32),
    "rir_cifar10": ("rir_cifar", 32),
    "xdensenet40_2_k24_bc_cifar10": ("xdensenet_cifar", 32),
    "mobilenetb_wd2": ("mobilenetb", 224),
    "mobilenetv3_large_w1": ("mobilenetv3", 224),
    "regnety002": ("regnet", 224),
    "shufflenetv2b_wd2": ("shufflenetv2b", 224),
    "seresnet10": ("seresnet", 224),
    "preresnet10": ("preresnet", 224),
    "efficientnet_edge_small_b": ("efficientnetedge", 224),
}
FIFTH = {
    "dla46c": ("dla", 224),
    "bninception": ("bninception", 224),
    "resnext14_16x4d": ("resnext", 224),
    "selecsls42": ("selecsls", 224),
    "nasnet_4a1056": ("nasnet", 224),
    "condensenet74_c8_g8": ("condensenet", 224),
    "diracnet18v2": ("diracnetv2", 224),
    "espnetv2_wd2": ("espnetv2", 224),
    "diaresnet20_cifar10": ("diaresnet_cifar", 32),
    "octresnet10_ad2": ("octresnet", 224),
}
SETS = {"first thirty": FIRST, "fourth ten": FOURTH, "fifth ten": FIFTH}
NETWORKS = FIRST | FOURTH | FIFTH
# A single visit is 5 to 20 % off.
LEAST_VISITS, LONGER = 4, 3


def build(name: str, batch: int) -> tuple[Any, Any]:
    """Return a network with weights of its own, and an input of its size."""
    import torch

    place, size = NETWORKS[name]
    torch.manual_seed(0)
    return getattr(import_module(f"pytorchcv.models.{place}"), name)(), torch.zeros(batch, 3, size, size)


def measure(name: str, target: str, *, batch: int, threads: int, seconds: float) -> dict[str, Any]:
    """Return what one network and its layers take; to be called in a process of its own."""
    from profiler import TracedModule, profile

    traced = TracedModule(*build(name, batch), name=name)
    table = profile(traced, target=target, threads=threads, time_budget_s=seconds)
    (network,) = table.networks
    if network.end_to_end is None:
        return {"name": name, "reason": network.reason, "setting": str(table.setting), "seconds": seconds}
    return {
        "name": name,
        "setting": str(table.setting),
        "instructions": table.device.instructions,
        "layers": sum(item.count for item in network.network.layers),
        "whole_ms": network.end_to_end.median_ms,
        "sum_ms": table.sum_ms(network),
        "repeat_error": network.end_to_end.repeat_error,
        "visits": len(network.end_to_end.visits.raw_ms),
        "drift": table.sessions[0].spread.common_drift,
        "seconds": seconds,
    }


def summary(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the figures of one setting."""
    errors = [r["sum_ms"] / r["whole_ms"] - 1 for r in results if r.get("sum_ms")]
    if not errors:
        return {"networks": 0, "missing": [r["name"] for r in results]}
    return {
        "networks": len(errors),
        "missing": [r["name"] for r in results if not r.get("sum_ms")],
        "too_few_visits": [r["name"] for r in results if r.get("sum_ms") and r["visits"] < LEAST_VISITS],
        "bias": round(fmean(errors), 4),
        "median": round(median(errors), 4),
        "mean_error": round(fmean(map(abs, errors)), 4),
        "worst": round(max(errors, key=abs), 4),
        "within_5_percent": round(sum(abs(e) <= 0.05 for e in errors) / len(errors), 3),
        "within_10_percent": round(sum(abs(e) <= 0.10 for e in errors) / len(errors), 3),
    }


def is_enough(result: dict[str, Any], seconds: float) -> bool:
    """Return whether a network was measured for so long, had visits enough before, or cannot be measured."""
    if result["seconds"] >= seconds or result.get("reason"):
        return True
    return result["sum_ms"] is not None and result["visits"] >= LEAST_VISITS


def show(result: dict[str, Any]) -> str:
    """Return one network's outcome."""
    if not result.get("sum_ms"):
        return str(result.get("reason"))
    return f"{result['sum_ms'] / result['whole_ms'] - 1:+.1%} of {result['whole_ms']:.2f} ms"


def kept_results(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Return what a folder holds, by setting and set of networks."""
    found: dict[str, list[dict[str, Any]]] = {}
    for instructions, target, batch, threads, (of, names) in itertools.product(
        ("all", "AVX2"), ("cpu", "onnx"), (1, 4), (1, 2), SETS.items()
    ):
        files = [folder / f"{instructions}-{target}-{batch}-{threads}-{name}.json" for name in names]
        results = [msgspec.json.decode(file.read_bytes()) for file in files if file.exists()]
        if results:
            found[f"{target}, batch {batch}, {threads} thread{'s' * (threads > 1)}, {instructions}, {of}"] = results
    return found


def main() -> None:
    """Measure every network in every setting, one after another, each in a process of its own."""
    made = parser(__doc__)
    made.add_argument("--targets", nargs="+", default=["cpu", "onnx"], choices=["cpu", "onnx"])
    made.add_argument("--networks", nargs="+", default=list(FIFTH), choices=list(NETWORKS))
    made.add_argument("--batches", nargs="+", type=int, default=[1, 4])
    made.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    made.add_argument("--instructions", nargs="+", default=["all", "AVX2"], choices=["all", "AVX2"])
    made.add_argument("--seconds", type=float, default=10.0, help="to measure a network in one setting")
    made.add_argument(
        "--folder", type=Path, default=Path("untuned_networks"), help="what was measured is kept there, and counts"
    )
    made.add_argument("--one", nargs=5, metavar=("NAME", "TARGET", "BATCH", "THREADS", "FILE"), help="used by itself")
    given = made.parse_args()
    if find_spec("pytorchcv") is None:
        print("skipped: pip install --no-deps pytorchcv")
        return
    given.folder.mkdir(parents=True, exist_ok=True)
    if given.one:
        name, target, batch, threads, file = given.one
        found = measure(name, target, batch=int(batch), threads=int(threads), seconds=given.seconds)
        Path(file).write_bytes(msgspec.json.encode(found))
        return
    for instructions, target, batch, threads in itertools.product(
        given.instructions, given.targets, given.batches, given.threads
    ):
        if instructions == "AVX2" and (target == "onnx" or threads > 1):
            # The runtime's kernels heed none of the variables that keep PyTorch's libraries to AVX2; and one thread
            # tells how others of PyTorch's kernels add up.
            continue
        for name in given.networks:
            kept = given.folder / f"{instructions}-{target}-{batch}-{threads}-{name}.json"
            for seconds in (given.seconds, LONGER * given.seconds):
                if kept.exists() and is_enough(msgspec.json.decode(kept.read_bytes()), seconds):
                    continue
                command = [sys.executable, __file__, "--folder", str(given.folder), "--seconds", str(seconds)]
                command += ["--one", name, target, str(batch), str(threads), str(kept)]
                environment = AVX2 if instructions == "AVX2" else {}
                subprocess.run(command, check=True, env={**os.environ, **environment})
            print(kept.stem, show(msgspec.json.decode(kept.read_bytes())), flush=True)
    settings = kept_results(given.folder)
    summaries = {setting: summary(found) for setting, found in settings.items()}
    rows = [
        (
            setting,
            s["networks"],
            len(s["missing"]),
            len(s["too_few_visits"]),
            f"{s['bias']:+.1%}",
            f"{s['mean_error']:.1%}",
            f"{s['worst']:+.1%}",
            f"{s['within_5_percent']:.0%}",
            f"{s['within_10_percent']:.0%}",
        )
        for setting, s in summaries.items()
        if s["networks"]
    ]
    print_table(
        "sum of layers against the whole",
        ("setting", "n", "missing", f"< {LEAST_VISITS} visits", "bias", "mean", "worst", "±5 %", "±10 %"),
        rows,
    )
    write_results(given.results, "untuned_networks", {"summaries": summaries, "results": settings})


if __name__ == "__main__":
    main()
