"""``search-architecture spaces``: which search spaces are installed."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from lut._console import make_console, print_json, styled

__all__ = ["spaces"]


def spaces(
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """List the installed search spaces, with their sizes and the networks that were published from each."""
    from profiler import available_spaces, load_space

    found: list[dict[str, Any]] = []
    for name, place in sorted(available_spaces().items()):
        space = load_space(name)
        kinds = [decision.kind for decision in space.choices]
        found.append(
            {
                "name": name,
                "from": place,
                "about": (type(space).__doc__ or "").strip().splitlines()[0].removesuffix(" Final."),
                "decisions": {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)},
                "curves": len(space.curves()),
                "layers": len(space.layers()),
                "published": sorted(space.published()),
            }
        )
    if json:
        print_json(found)
        return
    console = make_console()
    for space_ in found:
        console.print(styled((space_["name"], "bold"), f"  {space_['about']}"))
        decisions = ", ".join(f"{count} of {kind}" for kind, count in space_["decisions"].items())
        console.print(f"  decisions: {decisions}; profile-device measures {space_['layers']} layers of it")
        if space_["published"]:
            console.print(f"  networks: {', '.join(space_['published'])}")
