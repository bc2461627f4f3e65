"""RCAS's own result in the form of all searches, and back."""

from __future__ import annotations

from search._problem._problem import Problem
from search._runs._found import Candidate, Evaluated, Found
from search.rcas._search import RcasResult

__all__ = ["course_of", "found_of"]


def found_of(problem: Problem, result: RcasResult, warnings: tuple[str, ...] = ()) -> Found:
    """Return what RCAS found in the form of all searches."""
    return Found(
        search="rcas",
        problem=problem,
        winners=(Candidate(result.vector, result.value),),
        knowledge=Evaluated(dict(result.values)),
        evaluated=result.evaluated,
        seconds=result.seconds,
        course=result,
        warnings=warnings,
    )


def course_of(found: Found) -> RcasResult:
    """Return RCAS's own result."""
    assert isinstance(found.course, RcasResult)
    return found.course
