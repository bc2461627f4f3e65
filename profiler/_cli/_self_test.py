"""What ``profile-device --self-test`` does and prints; the first profile on a machine does it too."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from math import exp
from typing import TYPE_CHECKING, Any

from lut._console import duration
from profiler._cli._progress import ProgressBar, Standing

if TYPE_CHECKING:
    from rich.console import Console

    from profiler._session import Progress
    from profiler._tested import SelfTest

__all__ = ["is_first_profile", "print_self_test", "refuse_unless_held", "takes_a_minute", "test_this_machine"]

SELF_TEST_S = 36.0
# A shorter run is no time to test the machine first.
WORTH_TESTING_S = 60.0
# Chains that make a kind of work longer or shorter by less are not worth a word.
WORTH_SAYING = 0.005


def takes_a_minute(budget_s: float | None) -> bool:
    """Return whether a run is long enough to look at the machine first."""
    return budget_s is None or budget_s >= WORTH_TESTING_S


def is_first_profile(target: str, options: Mapping[str, Any], budget_s: float | None) -> bool:
    """Return whether this machine is to be tested before it is profiled.

    It is where a CPU's layers are timed in chains, by a run that takes a minute or more, and none like it was tested.
    """
    from importlib.metadata import version

    from profiler._machine import cpu_device
    from profiler._reference import reference_path
    from profiler._tested import self_test_path, was_tested

    if target != "cpu" or options.get("context") == "isolated" or options.get("compile"):
        return False
    if not takes_a_minute(budget_s):
        return False
    runtime = f"torch {version('torch')}"
    return not was_tested(self_test_path(reference_path()), cpu_device(), target, options, runtime)


def test_this_machine(target: str, options: Mapping[str, Any], *, seed: int, console: Console) -> SelfTest:
    """Run the self-test, showing where it stands.

    Raises:
        UsageError: the target has none, or an option is out of range.
        TargetUnavailableError: the target cannot run here.
    """
    from lut import UsageError
    from profiler._reference import check_references, reference_path
    from profiler._self_test import networks_of, run_self_test
    from profiler._spaces import load_space

    if target == "coreml":
        raise UsageError(
            "the self-test times layers and networks in turns, which Core ML's bundles do not; see --bundle"
        )
    check_references(reference_path())
    networks = networks_of(seed, load_space)
    console.print(f"Self-test: {len(networks)} small networks on {target}. Leave the machine alone for the minute.")
    with ProgressBar(console, _standing) as show, _said_as_such():
        return run_self_test(
            target, options, networks, reference=reference_path(), seconds=SELF_TEST_S, seed=seed, progress=show
        )


@contextlib.contextmanager
def _said_as_such() -> Iterator[None]:
    """Say of what the user stopped what it was."""
    from lut.errors import InterruptedRunError

    try:
        yield
    except InterruptedRunError:
        raise InterruptedRunError(
            "the self-test was stopped; nothing of it is kept, and nothing else was measured yet. --no-self-test does "
            "without"
        ) from None


def _standing(now: Progress) -> Standing:
    share = now.elapsed_s / max(now.elapsed_s + now.left_s, 1e-9)
    return Standing(
        share, f"self-test, {now.phase}: {now.visits:,} visits", f"{duration(now.left_s)} left", now.elapsed_s
    )


def print_self_test(console: Console, found: SelfTest, *, json: bool) -> None:
    """Print what a self-test found, and what follows from it."""
    if json:
        import msgspec

        value = {
            **msgspec.to_builtins(found),
            "chains": {kind or "all": offset._asdict() for kind, offset in found.chains.items()},
            "verdict": found.verdict,
            "bias": found.bias,
            "bias_error": found.bias_error,
            "worst": found.worst,
            "half_width": found.half_width(),
        }
        sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
        return
    from profiler._tested import BUDGET_S, LAYERS, REACH

    instructions = f" ({found.instructions})" if found.instructions else ""
    console.print()
    console.print(f"{found.device}{instructions}; {found.setting}; {found.software}")
    off = (
        f"of {len(found.sums)} networks that gave no layer its value, sums of layers are off by {found.bias:+.1%} "
        f"(±{REACH * found.bias_error:.1%}) on average, {found.worst:+.1%} at worst"
    )
    match found.verdict:
        case "hold":
            console.print(f"sums hold: {off}")
        case "cannot be told" if not found.sums:
            console.print("sums: not one of the networks could be measured whole", style="yellow")
        case "cannot be told":
            console.print(f"sums: {off}; the machine is too restless to say more now", style="yellow")
        case "do not hold":
            console.print(
                f"sums do not hold here: {off}. Measure whole networks beside the layers (--audit 20) and have "
                "fit-predictor calibrate by them",
                style="yellow",
            )
    console.print(
        f"sharpness: a visit scatters by {found.visit_noise:.1%}, {found.visits_per_s:.0f} visits a second; for "
        f"{LAYERS} layers, {BUDGET_S:.0f} s give ±{found.half_width():.1%}"
        + (f"; the machine's speed moved by {found.drift:.1%} meanwhile (removed)" if found.drift >= 0.05 else "")
    )
    if found.chain_length:
        console.print(
            f"settings: chains of {found.chain_length} layers, as long as such networks, for layers of no network at "
            "hand" + _chains(found)
        )


def refuse_unless_held(found: SelfTest) -> None:
    """Raise where sums do not hold: what asked for the test is to see that without reading.

    Raises:
        AdditivityError: sums of layers are not what networks take.
        IncompleteError: no network could be measured whole.
    """
    from lut.errors import AdditivityError, IncompleteError

    if not found.sums:
        raise IncompleteError(
            "not one of the self-test's networks could be measured whole; profile-device --audit 4 says of each why"
        )
    if found.verdict == "do not hold":
        raise AdditivityError(
            f"sums of layers do not hold on this machine: {found.bias:+.1%} on average, {found.worst:+.1%} at worst; "
            "calibrate by whole networks (profile-device --audit 20, then fit-predictor)"
        )


def _chains(found: SelfTest) -> str:
    told = [
        f"{kind} {exp(offset.mean) - 1:+.1%}"
        for kind, offset in sorted(found.chains.items())
        if kind and abs(offset.mean) >= WORTH_SAYING
    ]
    return f"; what they make of layers is taken off: {', '.join(told)}" if told else ""
