"""Networks by their layers, and the audit of a table's sums, as a person and as a program read them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lut._console import format_ms, styled
from lut._grid import Column, Grid, print_grid
from lut._network_text import AUDIT_STYLES, audit_level, audit_line, coverage, sum_line

if TYPE_CHECKING:
    from rich.console import Console

    from lut import LatencyTable
    from lut._measured_network import MeasuredNetwork
    from predictors._gains import WidthGain

__all__ = ["network_gains", "networks_json", "print_networks"]

# Layers of a network that are listed one by one, unless asked for all.
SHOWN = 15


def network_gains(table: LatencyTable) -> tuple[WidthGain, ...]:
    """Return what other widths would buy in the user's network, where its layers were swept."""
    from predictors import width_gains

    # A space's curves are of the space; its networks are samples, and nobody's own.
    if len(table.networks) != 1 or not table.curves:
        return ()
    return width_gains(table, table.networks[0].network)


def print_networks(console: Console, table: LatencyTable, *, verbose: bool, elsewhere: str | None) -> None:
    """Print the user's network layer by layer, or what the sampled networks say of the sums.

    Args:
        console: where to.
        table: what holds the networks.
        verbose: list all layers.
        elsewhere: where a reader finds the columns that a narrow terminal does not hold.
    """
    if len(table.networks) == 1:
        _print_network(console, table, table.networks[0], verbose=verbose, elsewhere=elsewhere)
    console.print(audit_line(table), style=AUDIT_STYLES[audit_level(table)])


def _print_network(
    console: Console, table: LatencyTable, network: MeasuredNetwork, *, verbose: bool, elsewhere: str | None
) -> None:
    shares = table.breakdown(network)
    named = any(share.kernel for share in shares)
    shown = shares if verbose else shares[:SHOWN]
    rows = []
    for share in shown:
        texts = [share.name, str(share.layer), *([share.kernel or ""] if named else [])]
        if share.ms is None or share.share is None:
            rows.append((*texts, str(share.times), "–", "not known"))
        else:
            rows.append((*texts, str(share.times), format_ms(share.ms), f"{share.share:.1%}"))
    columns = (
        *(Column("layer", text=True), Column("operators", 2, text=True)),
        *(Column("runs as", 3, text=True),) * named,
        *(Column("×", 1), Column("ms each"), Column("share")),
    )
    console.print()
    console.print(styled((network.name, "bold"), f": {coverage(network, len(shares))}"))
    print_grid(console, Grid(columns, tuple(rows)), elsewhere=elsewhere)
    if len(shares) > len(shown):
        rest = sum(share.share or 0.0 for share in shares[len(shown) :])
        console.print(f"… and {len(shares) - len(shown)} more, {rest:.1%} of the time: --verbose shows all")
    for share in shares:
        if share.ms is None:
            console.print(f"not covered: {share.name} ({share.layer}): {share.reason}", style="red")
    console.print(sum_line(table, network))


def networks_json(table: LatencyTable) -> list[dict[str, Any]]:
    """Return what ``--json`` prints of the networks."""
    return [
        {
            "name": network.name,
            "operators": network.operators,
            "idle": dict(network.idle),
            "whole_ms": None if network.end_to_end is None else network.end_to_end.median_ms,
            "repeat_error": None if network.end_to_end is None else network.end_to_end.repeat_error,
            "sum_ms": table.sum_ms(network),
            "reason": network.reason,
            "layers": [
                {
                    "name": share.name,
                    "layer": str(share.layer),
                    "digest": share.layer.digest,
                    "kernel": share.kernel,
                    "count": share.times,
                    "ms": share.ms,
                    "share": share.share,
                    "reason": share.reason,
                }
                for share in table.breakdown(network)
            ],
        }
        for network in table.networks
    ]
