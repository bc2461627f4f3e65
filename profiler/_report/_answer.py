"""What a reader of a table's report came for: three sentences and a chart."""

from __future__ import annotations

from collections.abc import Sequence

from lut import LatencyTable
from lut._console import format_ms
from lut._measured_network import MeasuredNetwork
from lut._network_text import trust_sentence
from lut._statistics import quantile
from predictors._gains import WidthGain
from predictors._show import SURE_SHARE
from predictors._widths import WidthSelection
from profiler._report._curves import selection_blocks
from profiler._report._networks import bars_chart, layer_bars, network_bars, slowest_chart, sum_points, sums_chart
from profiler._report._page import Answer, Block

__all__ = ["answer_of", "subtitle"]


def subtitle(table: LatencyTable) -> str:
    """Return how the table was measured, and how much of it there is."""
    converged = sum(m.converged for m in table.values())
    parts = [str(table.setting), f"{len(table)} layers measured, {converged} converged"]
    if table.failures:
        parts.append(f"{len(table.failures)} failed")
    if table.not_measured:
        parts.append(f"{len(table.not_measured)} not measured")
    if table.sessions:
        # With hyphens that no line is broken at.
        parts.append(table.sessions[-1].started_at[:10].replace("-", "\N{NON-BREAKING HYPHEN}"))
    return " · ".join(parts)


def answer_of(table: LatencyTable, selections: Sequence[WidthSelection], gains: Sequence[WidthGain]) -> Answer:
    """Return the sentences and the chart, of what the table is about: a network, stages, networks, or layers alone."""
    blocks: list[Block] = []
    if len(table.networks) == 1:
        network = table.networks[0]
        first, second = _network_sentence(table, network), _where_time_goes(table, network, gains)
        if bars := network_bars(table, network):
            blocks = [bars_chart(bars, f"layers-{network.name}")]
    elif selections:
        first, second = _widths_sentence(selections), _sureness_sentence(selections)
        blocks = selection_blocks(selections[0])
    elif points := sum_points(table):
        latencies = sorted(point.end_to_end_ms for point in points)
        first = f"{len(points)} networks take {format_ms(latencies[0])} to {format_ms(latencies[-1])} ms end to end."
        second = _intervals_sentence(table)
        blocks = [sums_chart(points)]
    else:
        first, second = _layers_sentence(table), _intervals_sentence(table)
        if len(table):
            blocks = [slowest_chart(layer_bars(table))]
    return Answer([text for text in (first, second, trust_sentence(table)) if text], blocks)


def _network_sentence(table: LatencyTable, network: MeasuredNetwork) -> str:
    if (whole := network.end_to_end) is not None:
        if "contaminated" in whole.flags:
            known = sum(share.total_ms or 0.0 for share in table.breakdown(network))
            return (
                f"The layers of {network.name} take {format_ms(known)} ms together; end to end it was seen to take "
                f"{format_ms(whole.median_ms)} ms, disturbed in every visit."
            )
        low, high = whole.within_run.low_ms, whole.within_run.high_ms
        return (
            f"{network.name} takes {format_ms(whole.median_ms)} ms end to end ({format_ms(low)} … {format_ms(high)})."
        )
    known = sum(share.total_ms or 0.0 for share in table.breakdown(network))
    if not known:
        return f"No layer of {network.name} was measured."
    return f"The measured layers of {network.name} take {format_ms(known)} ms together."


def _where_time_goes(table: LatencyTable, network: MeasuredNetwork, gains: Sequence[WidthGain]) -> str:
    best = gains[0] if gains else None
    if best is not None and (change := best.narrower) is not None and change.gain_ms > 0 and change.sure:
        tied = len(best.modules) - 1
        also = f" and the {tied} that share{'s' * (tied == 1)} its width" if tied else ""
        known = sum(share.total_ms or 0.0 for share in table.breakdown(network))
        return (
            f"Narrowing layer {best.modules[0]}{also} from {best.channels} to {change.channels} channels saves most: "
            f"{change.gain_ms:.2g} ms, {change.gain_ms / known:.0%} of its layers' time."
        )
    shares = [share for share in table.breakdown(network) if share.share is not None]
    if not shares:
        return ""
    top = shares[0]
    return f"Layer {top.name} ({top.layer}) takes the largest share of its layers' time, {top.share:.1%}."


def _widths_sentence(selections: Sequence[WidthSelection]) -> str:
    first = selections[0]
    widths = ", ".join(map(str, first.widths))
    rest = len(selections) - 1
    also = f"; those of {rest} other stage{'s' * (rest != 1)} are below" if rest else ""
    return f"In {first.curve.name} the latency favours {widths} channels{also}."


def _sureness_sentence(selections: Sequence[WidthSelection]) -> str:
    choices = [choice for selection in selections for choice in selection.choices]
    unsure = sum(choice.chosen_share < SURE_SHARE for choice in choices)
    if not unsure:
        return f"All {len(choices)} choices hold when the visits are resampled."
    return f"{len(choices) - unsure} of {len(choices)} choices are certain; those marked ~ may be noise."


def _layers_sentence(table: LatencyTable) -> str:
    if not len(table):
        return "No layer was measured."
    latencies = sorted(m.median_ms for m in table.values())
    if len(latencies) == 1:
        return f"One layer was measured: {format_ms(latencies[0])} ms."
    return f"{len(latencies)} layers take {format_ms(latencies[0])} to {format_ms(latencies[-1])} ms each."


def _intervals_sentence(table: LatencyTable) -> str:
    widths = [m.relative_half_width for m in table.values()]
    return f"The median half-width of the layers' intervals is ±{quantile(widths, 0.5):.1%}." if widths else ""
