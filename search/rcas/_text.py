"""What RCAS says of its course, in lines for people."""

from __future__ import annotations

from search.rcas._search import EXCHANGE, RcasResult

__all__ = ["counted", "course_lines", "show_value"]


def show_value(value: float) -> str:
    """Return a set function's value: a share as a percentage, anything else as it is."""
    return f"{value:.2%}" if 0 <= value <= 1 else f"{value:.4g}"


def counted(number: int, what: str) -> str:
    """Return a number of things."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def course_lines(found: RcasResult) -> list[str]:
    """Return which rule found the network, what the others found, and what it took."""
    greedy = [path for path in found.paths if path.rule != EXCHANGE]
    best = max(greedy, key=lambda path: path.last.value)
    added = ", ".join(f"{option}@{name}" for step in best.steps for name, option in step.changed.items())
    lines = [f"rule {best.rule}: {show_value(best.last.value)}, blocks added: {added or 'none (no block fits)'}"]
    for path in found.paths:
        if path.rule == EXCHANGE:
            # Its first network is the best that was evaluated, which need not be the end of a path.
            steps = [", ".join(f"{o or 'none'}@{name}" for name, o in step.changed.items()) for step in path.steps[1:]]
            first = show_value(path.steps[0].value)
            text = f"exchange: {show_value(path.last.value)}, from the best network evaluated ({first})"
            lines.append(f"{text}, {'; '.join(steps) or 'no exchange improved it'}")
    if len(greedy) > 1:
        others = ", ".join(f"{path.rule} {show_value(path.last.value)}" for path in greedy if path is not best)
        lines.append(f"other rules: {others}")
    text = f"{found.evaluated} networks evaluated ({found.plain} without laziness)"
    if found.revisited:
        text += f"; {found.exceeded} of {found.revisited} re-evaluated gains increased"
    if found.exceeded:
        excess = found.excess
        text += f", by {f'{100 * excess:.2f} points' if 0 <= found.value <= 1 else f'{excess:.4g}'} at most"
    return [*lines, text]
