"""``search-architecture describe``: a network's layers, its size, and what it takes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lut._console import format_ms, make_console, print_json, styled
from lut._grid import Column, Grid, print_grid
from predictors._commands._inputs import check_files
from profiler._cli._workloads import ExpandOption, SetOption
from search._commands._options import LARGEST_SEED

if TYPE_CHECKING:
    from lut import Network, SearchSpace
    from predictors import LatencyPredictor
    from predictors._predictions import NetworkPrediction

__all__ = ["describe", "find_network"]


def describe(
    space: Annotated[
        str, typer.Argument(metavar="SPACE", help="An installed space; `search-architecture spaces` lists them.")
    ],
    network: Annotated[
        str,
        typer.Argument(
            metavar="NETWORK",
            help="A published network's name, a network file, option indices such as 3,0,7, or random (see --seed).",
        ),
    ],
    predictor: Annotated[
        Path | None,
        typer.Option(
            "--predictor", metavar="FOLDER", help="Also predict the latency: a folder written by fit-predictor."
        ),
    ] = None,
    expand: ExpandOption = None,
    settings: SetOption = None,
    level: Annotated[
        float, typer.Option("--level", help="Probability that the prediction interval holds the latency.")
    ] = 0.9,
    seed: Annotated[int, typer.Option("--seed", min=0, max=LARGEST_SEED, help="Seed of a random network.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Describe a network of a space: its layers, parameters, multiply-adds and, with --predictor, its latency.

    Multiply-adds are counted as the space's paper counts them: of convolutions and linear layers.

    Example: search-architecture describe resnet-cifar tas-c10-r32 --predictor predictor/
    """
    from lut._level import check_level
    from predictors import LatencyPredictor
    from profiler._cli._workloads import open_space, plug_in_options

    check_files(predictor, None, takes_tables=False)
    check_level(level)
    options = plug_in_options(settings, space=space, target=None).space
    opened = open_space(space, expand=expand, options=options)
    found = find_network(opened, network, seed=seed)
    loaded = LatencyPredictor.load(predictor) if predictor is not None else None
    prediction = loaded.predict(found, level=level) if loaded is not None else None
    content = _content(opened, found, prediction, loaded)
    if json:
        print_json(content)
        return
    _print(content)


def find_network(space: SearchSpace, text: str, *, seed: int) -> Network:
    """Return the network that a text names: see :func:`describe`.

    Raises:
        UsageError: it names none.
        FileAccessError: a file cannot be read.
        TableFormatError: a file is no network's.
    """
    import random

    import msgspec

    from lut import UsageError
    from lut._network_file import read_network_file
    from lut._suggest import did_you_mean

    published: dict[str, Any] = dict(space.published())
    if text in published:
        made: Network = published[text]()
        return made
    if text == "random":
        return space.decode(space.sample(random.Random(seed)))  # noqa: S311 - a sample, no secret
    if text.endswith(".json"):
        content = read_network_file(text)
        if content.space and content.space != space.name:
            raise UsageError(f"{text} holds a network of the space {content.space}, not of {space.name}")
        return content.network
    try:
        vector = msgspec.json.decode(f"[{text}]".encode("utf-8", "surrogateescape"), type=list[int])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        names = f"; published networks: {', '.join(sorted(published))}" if published else ""
        raise UsageError(
            f"{text!r} is not a network of {space.name}{did_you_mean(text, [*published, 'random'])}: give a file.json, "
            f"{len(space.choices)} option indices, random, or a name{names}"
        ) from None
    return space.decode(vector)


def _content(
    space: SearchSpace,
    network: Network,
    prediction: NetworkPrediction | None,
    predictor: LatencyPredictor | None,
) -> dict[str, Any]:
    parts = prediction.layers if prediction is not None else (None,) * len(network.layers)
    content: dict[str, Any] = {
        "space": space.name,
        "network": network.name,
        "parameters": network.parameters,
        "madds": space.count_madds(network),
        "layers": [
            {
                "name": item.name,
                "layer": str(item.layer),
                "output": list(item.layer.output_shape),
                "count": item.count,
                "parameters": item.layer.parameters,
                "madds": item.layer.madds,
                **({} if part is None else {"ms": part.contribution_ms, "origin": part.origin}),
            }
            for item, part in zip(network.layers, parts, strict=True)
        ],
    }
    if prediction is not None and predictor is not None:
        content["latency"] = {
            "device": predictor.device.model,
            "setting": str(predictor.setting),
            "ms": prediction.ms,
            "low_ms": prediction.low_ms,
            "high_ms": prediction.high_ms,
            "level": prediction.level,
            "no_interval": predictor.no_interval(prediction.level),
            "coverage": prediction.coverage,
            "outside": list(prediction.outside),
        }
    return content


def _print(content: dict[str, Any]) -> None:
    console = make_console()
    latency = content.get("latency")
    columns = (
        *(Column("layer", text=True), Column("operators", 3, text=True), Column("output", 2)),
        *(Column("parameters", 1), Column("M madds", 1), *((Column("ms"),) if latency else ())),
    )
    rows = []
    for row in content["layers"]:
        cells = [
            row["name"] + (f" ×{row['count']}" if row["count"] > 1 else ""),
            row["layer"],
            "×".join(map(str, row["output"])),
            f"{row['parameters']:,}",
            f"{row['madds'] / 1e6:.3f}",
        ]
        if latency:
            cells.append(format_ms(row["ms"]) + ("" if row["origin"] == "measured" else "~"))
        rows.append(tuple(cells))
    print_grid(console, Grid(columns, tuple(rows)), again=True)
    if latency and any(row["origin"] != "measured" for row in content["layers"]):
        console.print("~ predicted, not measured")
    console.print()
    console.print(
        styled(
            (content["network"], "bold"),
            f": {len(content['layers'])} layers, {content['parameters'] / 1e6:.4f} M parameters, "
            f"{content['madds'] / 1e6:.2f} M multiply-adds",
        )
    )
    if latency is None:
        return
    interval = ""
    if latency["low_ms"] is not None:
        interval = (
            f", between {format_ms(latency['low_ms'])} and {format_ms(latency['high_ms'])} at {latency['level']:.0%}"
        )
    console.print(
        styled(f"{latency['device']}, {latency['setting']}: ", (f"{format_ms(latency['ms'])} ms", "bold"), interval)
    )
    if latency["no_interval"]:
        console.print(f"no interval: {latency['no_interval']}", style="yellow")
    for text in latency["outside"]:
        console.print(f"unlike the networks measured end to end: {text}", style="yellow")
