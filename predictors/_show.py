"""Chosen widths as a person and as a program read them."""

from __future__ import annotations

from collections.abc import Sequence
from math import floor, log10
from typing import TYPE_CHECKING, Any, Literal

from lut import UsageError
from lut._console import format_ms
from lut._grid import Column, Grid
from lut._option_names import option_text
from lut._printable import shortened
from predictors._exponent import LARGEST_ALPHA
from predictors._gains import shown_modules

if TYPE_CHECKING:
    from predictors._gains import WidthChange, WidthGain
    from predictors._widths import WidthChoice, WidthSelection

__all__ = [
    "CHOICES_COLUMNS",
    "GAINS_HEADER",
    "GAINS_NOTE",
    "choice_cells",
    "choices_table",
    "gain_cells",
    "gains_json",
    "gains_table",
    "law_line",
    "parse_alpha",
    "selection_json",
    "widths_table",
]

# Below this share of the resamples, a choice is the toss of a coin between neighbours rather than a finding.
SURE_SHARE = 0.9
UNSURE_NOTE = "~ in more than a tenth of the resamples a width that is not next to it wins its group"

GAINS_HEADER = ("layers", "count", "width", "ms", "narrower", "saves ms", "wider", "costs ms")
# Which go first where they do not all fit.
GAINS_DROPPED = {"count": 2, "wider": 1, "costs ms": 1}

CHOICES_COLUMNS = (
    *(Column("group"), Column("width"), Column("ms"), Column("score ms", 3), Column("runner-up", 4)),
    *(Column("margin", 2), Column("chosen", 1), Column("uniform", 5), Column("its ms", 5), Column("its score ms", 5)),
)
GAINS_NOTE = (
    "A row is of all layers that must be equally wide, the first by name, with what they take together. Narrower and "
    "wider: widths nearby at the end of a stair, and the ms that they save or cost. – none within reach; ~ within the "
    "noise; ? what else must change with them is not known. The layers that read this width change with it, which "
    "these numbers do not hold."
)


def widths_table(selections: Sequence[WidthSelection], *, hardware: str) -> Grid:
    """Return HTAS's Table 2: a line of widths per stage; ``~`` marks a choice that resampling often changes."""
    rows = []
    for i, selection in enumerate(selections):
        widths = ", ".join(
            f"{choice.channels}" + ("" if choice.chosen_share >= SURE_SHARE else "~") for choice in selection.choices
        )
        rows.append(("" if i else hardware, selection.curve.name, selection.curve.size, widths))
    columns = (
        *(Column("hardware", 2, left=True), Column("stage", left=True), Column("output size", 1, left=True)),
        Column("hardware-aware search space", text=True),
    )
    return Grid(columns, tuple(rows))


def choices_table(selection: WidthSelection) -> Grid:
    """Return one line per choice of a curve: its score, its margin over noise, and the uniform grid's choice."""
    return Grid(CHOICES_COLUMNS, tuple(tuple(choice_cells(choice)) for choice in selection.choices))


def choice_cells(choice: WidthChoice) -> list[str]:
    """Return what stands under :data:`CHOICES_COLUMNS` of a choice."""

    def optional(value: float | None, text: str) -> str:
        return "–" if value is None else text.format(value)

    return [
        f"{choice.first}–{choice.last}",
        str(choice.channels),
        format_ms(choice.ms),
        f"{choice.score_ms:+.4f}",
        optional(choice.runner_up, "{}"),
        optional(choice.margin_in_noise, "{:.1f} σ"),
        f"{choice.chosen_share:.0%}",
        str(choice.uniform_channels),
        "–" if choice.uniform_ms is None else format_ms(choice.uniform_ms),
        optional(choice.uniform_score_ms, "{:+.4f}"),
    ]


def selection_json(selection: WidthSelection) -> dict[str, Any]:
    """Return what ``--json`` prints of one curve."""
    law = selection.law
    return {
        "curve": selection.curve.name,
        "output_size": selection.curve.size,
        "base_channels": selection.curve.base_channels,
        "widths": list(selection.widths),
        "law": {
            "k": law.k_,
            "alpha": law.alpha_,
            "b": law.b_,
            "rmse_ms": law.rmse_,
            "mape": law.mape_,
            "valid_range": list(law.valid_range_),
        },
        "choices": [choice._asdict() for choice in selection.choices],
    }


def gains_table(gains: Sequence[WidthGain]) -> Grid:
    """Return one line for each width that layers share, the friendly ones next to it, and the ms that they save."""
    columns = tuple(Column(title, GAINS_DROPPED.get(title, 0), text=not i) for i, title in enumerate(GAINS_HEADER))
    return Grid(columns, tuple(tuple(gain_cells(gain)) for gain in gains))


def gain_cells(gain: WidthGain) -> list[str]:
    """Return what stands under :data:`GAINS_HEADER` of a layer; ``~`` marks a difference within the noise."""
    # As many decimals as the latency has that it is a difference of: more would be noise.
    decimals = max(0, 3 - floor(log10(gain.ms)))

    def change(found: WidthChange | None, sign: int) -> list[str]:
        if found is None:
            return ["–", "–"]
        text = f"{sign * found.gain_ms:.{decimals}f}".replace("-", "−")
        text = "0" if float(text.replace("−", "-")) == 0 else text
        return [str(found.channels), text + ("" if found.sure else "~")]

    own = [
        shown_modules(gain.modules) + "?" * (not gain.ties_known),
        str(gain.count),
        str(gain.channels),
        format_ms(gain.ms),
    ]
    return [*own, *change(gain.narrower, 1), *change(gain.wider, -1)]


def gains_json(gains: Sequence[WidthGain]) -> list[dict[str, Any]]:
    """Return what ``--json`` prints of a network's layers and their widths, in the given order."""
    return [
        {
            "name": gain.name,
            "groups": [list(group) for group in gain.groups],
            "layers": [str(layer) for layer in gain.layers],
            "digests": [layer.digest for layer in gain.layers],
            "unmeasured": list(gain.unmeasured),
            "ties_known": gain.ties_known,
            "count": gain.count,
            "channels": gain.channels,
            "ms": gain.ms,
            "friendly_channels": list(gain.friendly_channels),
            "narrower": None if gain.narrower is None else gain.narrower._asdict(),
            "wider": None if gain.wider is None else gain.wider._asdict(),
        }
        for gain in gains
    ]


def law_line(selection: WidthSelection) -> str:
    """Return the fitted law with its error and range in one line."""
    law = selection.law
    low, high = law.valid_range_
    exponent = "" if law.alpha_ == 1 else f"^{law.alpha_:.3g}"
    return (
        f"f(x) = {law.k_:.4g}·x{exponent} {'+' if law.b_ >= 0 else '−'} {abs(law.b_):.4g} ms, "
        f"mean error {law.mape_:.1%}, valid for {low:g} … {high:g} channels"
    )


def parse_alpha(text: str) -> float | Literal["auto"]:
    """Return the exponent that an ``--alpha`` option names.

    Raises:
        UsageError: it is neither a positive number nor ``auto``.
    """
    if text == "auto":
        return "auto"
    try:
        alpha = float(text)
    except ValueError:
        alpha = float("nan")
    if not 0 < alpha <= LARGEST_ALPHA:
        found = shortened(text, 60)
        raise UsageError(
            f"{option_text('alpha')} is a positive number or 'auto', at most {LARGEST_ALPHA:g}, got {found!r}"
        )
    return alpha
