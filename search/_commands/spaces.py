"""``search-architecture spaces``: which search spaces are installed."""

from __future__ import annotations

from typing import Annotated, Any

import typer

__all__ = ["spaces"]


def spaces(
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """List the installed search spaces, with their sizes and the networks that were published from each."""
    from importlib.metadata import entry_points

    import msgspec
    from rich.console import Console
    from rich.markup import escape

    from profiler import load_space

    found: list[dict[str, Any]] = []
    for point in sorted(entry_points(group="latency_lut.spaces"), key=lambda point: point.name):
        space = load_space(point.name, expand=2.0)
        kinds = [decision.kind for decision in space.choices]
        published = getattr(space, "published", None)
        found.append(
            {
                "name": point.name,
                "from": point.value,
                "about": (type(space).__doc__ or "").strip().splitlines()[0].removesuffix(" Final."),
                "decisions": {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)},
                "curves": len(space.curves()),
                "layers": len(space.layers()),
                "published": sorted(published()) if published is not None else [],
            }
        )
    if json:
        typer.echo(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
        return
    console = Console(highlight=False)
    for space_ in found:
        console.print(f"[bold]{escape(space_['name'])}[/]  {escape(space_['about'])}")
        decisions = ", ".join(f"{count} of {kind}" for kind, count in space_["decisions"].items())
        console.print(f"  decisions: {decisions}; profile-device measures {space_['layers']} layers of it")
        if space_["published"]:
            console.print(f"  networks: {escape(', '.join(space_['published']))}")
