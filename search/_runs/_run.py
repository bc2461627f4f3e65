"""A whole run of any search: search, verify and repair, train, measure, report, export; each step goes on after a kill.

What can be refused is refused before anything is begun, and what is calibrated is calibrated before the search.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from lut import save_network
from lut._files import write_atomically
from lut._option_names import go_on
from lut.errors import BudgetError, IncompleteError, InterruptedRunError, ProfileError
from profiler import compare_networks
from search._data._images import ImageData
from search._problem._problem import Problem
from search._runs._ending import NOT_ASKED, Measured, measure_both, measured_before, train_both, try_device
from search._runs._folder import (
    BASE_WEIGHTS,
    CHECKPOINTS,
    NETWORK,
    RECORD,
    REPORT,
    RESULT,
    VERIFICATION,
    WEIGHTS,
    open_folder,
    write_json,
)
from search._runs._found import Candidate, Found
from search._runs._measurement import Compare
from search._runs._method import Method
from search._runs._plan import RunPlan
from search._runs._python import broken_text
from search._runs._report import report
from search._runs._reporter import Reporter
from search._runs._result import Finalist, RunResult
from search._runs._sittings import SITTINGS, Stage
from search._runs._summary import summary
from search._runs._verify import MOST_REPAIRS, Verification, verify
from search._training._train import Trained, check_precision

__all__ = [
    "SHARED_FILES",
    "Run",
    "check_run",
    "files_of",
    "refuse_broken",
    "run",
    "stages_of",
]

# Finalists that are evaluated again with another seed, where that means something.
FINALISTS = 3
# A folder that nobody but a run writes. A predictor or a bundle there may be the user's own: they are replaced when the
# run writes its own, and never deleted.
EXPORTED = ("network.mlpackage",)
# What every run's folder holds, and what each file is.
SHARED_FILES = {
    RECORD: "what was asked for",
    NETWORK: "the network that was found",
    VERIFICATION: "what the networks took that were measured against the budget",
    WEIGHTS: "its trained weights",
    BASE_WEIGHTS: "those of the base network",
    "history.json": "the search and the trainings, epoch by epoch",
    RESULT: "what came of it, in numbers",
    REPORT: "the same as a page",
}


class Run(NamedTuple):
    """What a run needs besides its folder.

    Args:
        plan: all that its course depends on.
        problem: what is searched, calibrated.
        method: the search.
        data: to train on at the end, if the plan has a recipe.
        device: PyTorch's name of where to train.
        measure_s: seconds of each session of measuring; 0, or no predictor: nothing is measured.
        repairs: sessions after the first in which the search may choose again.
        warnings: what is known beforehand that a reader of the result is to know.
        keep_predictor: save the predictor into the folder.
        compare: what measures networks.
    """

    plan: RunPlan
    problem: Problem
    method: Method
    data: ImageData | None = None
    device: str = "cpu"
    measure_s: float = 30.0
    repairs: int = MOST_REPAIRS
    warnings: tuple[str, ...] = ()
    keep_predictor: bool = False
    compare: Compare = compare_networks


def files_of(method: Method) -> dict[str, str]:
    """Return what a run's folder holds, and what each file is."""
    return {**method.files, **SHARED_FILES}


def stages_of(method: Method, plan: RunPlan, output: Path) -> tuple[Stage, ...]:
    """Return the parts of a run that have checkpoints."""
    found = method.stages(output)
    if plan.recipe is not None:
        for file, what in (("base", "training the base network"), ("weights", "training the network found")):
            found += (Stage.of(what, output / CHECKPOINTS / f"{file}.safetensors", plan.recipe),)
    return found


def check_run(run: Run) -> None:
    """Raise what can be known to fail before anything is begun, apart from a budget that no network is within.

    Raises:
        UsageError: settings that go with no search, no data or no device.
        PredictorError: the predictor knows nothing of the base network.
    """
    if run.plan.recipe is not None:
        check_precision(run.plan.recipe, run.device)
    if run.problem.predictor is not None:
        run.problem.predictor.latency_ms(run.method.base(run.problem))
    run.method.check(run.problem)


def run(
    run: Run,
    output: Path,
    *,
    restart: bool = False,
    export: Callable[[RunResult], None] = lambda _: None,
    tell: Reporter,
) -> RunResult:
    """Do a run, or go on with it where it was interrupted, and write its files.

    Args:
        run: what to do.
        output: the folder for the files; it is made if need be.
        restart: discard what is in the folder.
        export: called with the result before the run counts as finished, to export the network, say.
        tell: told where the run stands.

    Raises:
        CheckpointError: the folder holds another run, or a finished one.
        BudgetError: no network is within the budgets.
        UnlikeTablesError: the predictor is of another device than this one.
        SearchError: an evaluation or a training failed.
        FileAccessError: a file cannot be written.
        InterruptedRunError: stopped by the user; what is done is kept.
    """
    check_run(run)
    predictor = run.problem.predictor
    if run.measure_s > 0 and predictor is not None:
        tell.phase("Trying the device")
        try_device(run.method.base(run.problem), predictor, run.compare)
    # Nothing is touched before it is known that the work can be done.
    checkpoints = [f"{CHECKPOINTS}/{file}.safetensors" for file in ("search", "base", "weights")]
    checkpoints.append(f"{CHECKPOINTS}/{SITTINGS}")
    files = (*files_of(run.method), *checkpoints, "network.onnx")
    open_folder(run.plan, output, files=files, folders=EXPORTED, restart=restart)
    if run.keep_predictor and predictor is not None:
        predictor.save(output / "predictor")
    try:
        return _steps(run, output, export, tell)
    except KeyboardInterrupt:
        raise InterruptedRunError(f"what is done is kept in {output}; {go_on(restart=restart)}") from None


def _steps(run: Run, output: Path, export: Callable[[RunResult], None], tell: Reporter) -> RunResult:
    tell.phase("Searching")
    found = run.method.run(run.problem, output, tell)
    verification, not_verified = None, None
    if run.measure_s > 0 and run.problem.budgets.ms is not None:
        found, verification, not_verified = _verified(run, found, output, tell)
    # What may not keep its budget is not trained: another network may be chosen once it can be measured.
    kept = not_verified is None and (verification is None or verification.chosen is not None)
    found, finalists = _finalists(run, found, verification, output, tell) if kept else (found, ())
    base_trained = trained = None
    measured: Measured | None = None
    reason: str | None = not_verified or NOT_ASKED
    if verification is not None:
        measured, reason = measured_before(_chosen(verification, found)), None
    if kept or not_verified is not None:
        _write_network(run.problem, found, output)
        run.method.write_found(found, output)
    else:
        # One of a sitting that could not measure it.
        (output / NETWORK).unlink(missing_ok=True)
    if kept:
        if run.plan.recipe is not None and run.data is not None:
            base_trained, trained = _trained(run, found, output, tell)
        if measured is None:
            measured, reason = _measured(run, found, tell)
    taught = found.problem.predictor
    if run.keep_predictor and taught is not None and verification is not None:
        taught.save(output / "predictor")
    result = RunResult(
        plan=run.plan,
        method=run.method,
        found=found,
        base=run.method.base(run.problem),
        base_predicted_ms=None
        if run.problem.predictor is None
        else run.problem.predictor.latency_ms(run.method.base(run.problem)),
        base_trained=base_trained,
        trained=trained,
        measured=measured,
        not_measured=reason,
        verification=verification,
        finalists=finalists,
        warnings=run.warnings + found.warnings,
    )
    _write_results(result, output)
    if kept:
        export(result)
    if measured is not None or reason == NOT_ASKED:
        # Last: it says that the run is finished. One that could not be measured may be run again, and goes on there.
        write_json(output / RESULT, summary(result))
    return result


def _verified(run: Run, found: Found, output: Path, tell: Reporter) -> tuple[Found, Verification | None, str | None]:
    """Measure what was found, and repair it; return what is found then, or why nothing could be measured."""
    tell.phase("Measuring what was found")
    try:
        done = verify(
            run.problem,
            found.knowledge,
            found.winners[0],
            run.method.base(run.problem),
            compare=run.compare,
            seconds=run.measure_s,
            seed=run.plan.seed,
            repairs=run.repairs,
            path=output / VERIFICATION,
            said=tell.note,
            progress=tell.measuring,
        )
    except (IncompleteError, ProfileError) as error:
        # All else that the run found is not lost for that.
        return found, None, str(error)
    winner = done.winner
    if winner is None:
        nearest = done.verification.checked(done.verification.nearest)
        assert nearest is not None
        winner = Candidate(nearest.vector, nearest.value)
    return replace(found, problem=done.problem, winners=(winner, *found.winners[1:])), done.verification, None


def _finalists(
    run: Run, found: Found, verification: Verification | None, output: Path, tell: Reporter
) -> tuple[Found, tuple[Finalist, ...]]:
    """Evaluate the best networks again with another seed, and take the one that is best then."""
    budget = run.problem.budgets.ms
    if verification is not None and budget is not None:
        # Measured as often as the one that is the result so far.
        sessions = len(verification.sessions_of(verification.chosen or ()))
        within = {
            c.vector: c.value
            for c in verification.networks
            if c.timed.verdict(budget, verification.holds) == "within"
            and len(verification.sessions_of(c.vector)) >= sessions
        }
        ranked = sorted(within.items(), key=lambda one: -one[1])
        candidates = [Candidate(vector, value) for vector, value in ranked]
    else:
        candidates = list(found.knowledge.candidates(run.problem, FINALISTS))
    first = found.winners[0]
    several = [first, *(c for c in candidates if c.vector != run.problem.canonical(first.vector))][:FINALISTS]
    if len(several) < 2:
        return found, ()
    tell.phase("Evaluating the finalists again")
    fresh = run.method.fresh_values(run.problem, [c.vector for c in several], output)
    if fresh is None:
        return found, ()
    finalists = [Finalist(c.vector, c.value, value) for c, value in zip(several, fresh, strict=True)]
    finalists.sort(key=lambda one: -one.fresh)
    # Its value is the fresh one: the other was the best of many, and partly luck.
    winner = Candidate(finalists[0].vector, finalists[0].fresh)
    return replace(found, winners=(winner, *found.winners[1:])), tuple(finalists)


def _chosen(verification: Verification, found: Found) -> Verification:
    """Return a verification whose result is the network found, which finalists may have changed."""
    import msgspec

    if verification.chosen is None or verification.chosen == found.vectors[0]:
        return verification
    return msgspec.structs.replace(verification, chosen=found.vectors[0])


def _trained(run: Run, found: Found, output: Path, tell: Reporter) -> tuple[Trained, Trained]:
    assert run.plan.recipe is not None
    assert run.data is not None
    return train_both(
        run.method.base(run.problem),
        found.networks[0],
        run.data,
        run.plan.recipe,
        output,
        seed=run.plan.seed,
        device=run.device,
        distil=run.plan.distil,
        tell=tell,
    )


def _measured(run: Run, found: Found, tell: Reporter) -> tuple[Measured | None, str | None]:
    """Measure the network found beside the base network, where that was asked for."""
    predictor = run.problem.predictor
    if not run.measure_s > 0 or predictor is None:
        return None, NOT_ASKED
    tell.phase("Measuring both")
    base = run.method.base(run.problem)
    return measure_both(
        base, found.networks[0], predictor, seconds=run.measure_s, seed=run.plan.seed, compare=run.compare, tell=tell
    )


def _write_network(problem: Problem, found: Found, output: Path) -> None:
    space = problem.space
    options: dict[str, Any] = dict(space.options)
    choices = zip(space.choices, found.vectors[0], strict=True)
    save_network(
        output / NETWORK,
        found.networks[0],
        space=space.name,
        options=options,
        choices={decision.name: decision.options[index] for decision, index in choices},
    )


def _write_results(result: RunResult, output: Path) -> None:
    history: dict[str, Any] = {
        name: [] if trained is None else [epoch._asdict() for epoch in trained.epochs]
        for name, trained in (("base", result.base_trained), ("winner", result.trained))
    }
    own = result.method.history(result.found)
    # All epochs are numbered from 1, those of the warm-up first.
    warmup = {"training": 0 if result.plan.recipe is None else result.plan.recipe.warmup_epochs}
    warmup |= own.pop("warmup_epochs", {})
    write_json(output / "history.json", {**own, **history, "warmup_epochs": warmup})
    write_atomically(output / REPORT, report(result).encode())


def refuse_broken(result: RunResult) -> None:
    """Raise where the run's network does not keep the budget, or could not be measured though that was asked for.

    Raises:
        BudgetError: see there; with the distance.
        IncompleteError: not measured, and why.
    """
    verification = result.verification
    if verification is not None and verification.chosen is None:
        raise BudgetError(broken_text(verification))
    if result.not_measured is not None and result.not_measured != NOT_ASKED:
        raise IncompleteError(f"the network found could not be measured: {result.not_measured}")
