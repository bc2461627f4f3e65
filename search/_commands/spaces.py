"""``search-architecture spaces``: which search spaces are installed."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from lut import LatencyLutError, SearchSpace
from lut._console import make_console, print_json, styled
from lut._printable import printable, shortened

__all__ = ["spaces"]


def spaces(
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """List the installed search spaces, with their sizes and the networks that were published from each."""
    from profiler import available_spaces, load_space

    found: list[dict[str, Any]] = []
    for name, place in sorted(available_spaces().items()):
        try:
            found.append({"name": name, "from": place, **_told(load_space(name))})
        except Exception as error:
            # Somebody else's, which may raise anything: the others are listed all the same.
            why = str(error) if isinstance(error, LatencyLutError) else f"{type(error).__name__}: {error}"
            found.append({"name": name, "from": place, "error": shortened(printable(why), 200)})
    if json:
        print_json(found)
        return
    console = make_console()
    for space_ in found:
        if "error" in space_:
            console.print(styled((space_["name"], "bold"), f"  cannot be used: {space_['error']}"))
            continue
        console.print(styled((space_["name"], "bold"), f"  {space_['about']}"))
        decisions = ", ".join(f"{count} of {kind}" for kind, count in space_["decisions"].items())
        console.print(f"  decisions: {decisions}; profile-device measures {space_['layers']} layers of it")
        if space_["published"]:
            console.print(f"  networks: {', '.join(space_['published'])}")


def _told(space: SearchSpace) -> dict[str, Any]:
    """Return what is listed of a space."""
    kinds = [decision.kind for decision in space.choices]
    about = (type(space).__doc__ or "").strip() or "(its class says nothing of itself)"
    return {
        "about": about.splitlines()[0].removesuffix(" Final."),
        "decisions": {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)},
        "curves": len(space.curves()),
        "layers": len(space.layers()),
        "published": sorted(space.published()),
    }
