"""The networks that TAS published (Dong & Yang, NeurIPS 2019), those it compares with, and the bases: widths as facts.

Source: ``configs/NeurIPS-2019`` and ``configs/compares`` of D-X-Y/AutoDL-Projects. ``widths`` holds the stem and the
widths of *all* blocks of the base network, of which the first ``kept`` of each stage are built.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

from lut import Network
from search.spaces._resnet_network import STAGES, base_resnet, resnet

__all__ = ["published_networks"]

CLASSES = {"c10": 10, "c100": 100}
BASES = (20, 32, 56, 110)
BOTTLENECK_BASE = 164


class _Published(NamedTuple):
    kept: tuple[int, int, int]
    widths: tuple[int, ...]


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in text.split())


_BASIC: dict[str, _Published] = {
    "tas-c10-r20": _Published((3, 3, 3), _numbers("16 6 4 4 4 4 4 32 32 12 19 32 28 64 64 64 64 64 44")),
    "tas-c10-r32": _Published(
        (5, 5, 5),
        _numbers("16 6 4 12 4 4 16 9 9 6 14 32 32 9 19 28 9 32 19 32 9 64 64 64 64 64 64 64 32 38 32"),
    ),
    "tas-c10-r56": _Published(
        (5, 5, 5),
        _numbers(
            "16 16 16 14 11 9 16 12 16 6 16 4 8 4 14 6 4 4 4 32 32 32 32 32 32 22 28 32 32 19 9 19 16 9 25 16 9 "
            "64 64 64 64 64 64 64 64 64 51 19 19 32 19 19 32 19 25"
        ),
    ),
    "tas-c10-r56-compares": _Published(
        (5, 5, 5),
        _numbers(
            "16 16 16 14 14 14 16 12 16 6 16 4 4 4 14 4 4 6 4 32 32 32 32 32 32 22 25 16 32 19 9 9 16 25 12 16 9 "
            "64 64 64 64 64 64 64 64 64 51 19 19 32 51 25 32 19 19"
        ),
    ),
    "tas-c10-r110": _Published(
        (11, 11, 9),
        _numbers(
            "16 14 16 14 16 16 16 16 16 14 16 16 16 12 16 16 16 9 16 8 16 4 16 4 4 4 16 4 4 4 4 6 6 4 6 11 4 32 "
            "32 32 32 32 32 32 32 28 32 32 28 22 22 22 32 32 25 28 9 9 28 12 9 12 32 9 9 22 12 16 9 12 9 9 9 64 "
            "64 64 64 64 64 64 64 64 64 64 64 64 64 64 38 64 25 19 19 19 19 19 25 32 19 19 25 25 19 19 38 38 19 "
            "19 51"
        ),
    ),
    "tas-c100-r20": _Published((3, 3, 3), _numbers("16 4 4 4 4 6 4 32 32 9 19 32 28 64 64 64 64 64 64")),
    "tas-c100-r32": _Published(
        (5, 5, 5),
        _numbers("16 4 4 6 11 6 4 8 4 4 4 32 32 9 28 28 28 28 28 32 32 64 64 64 64 64 64 64 64 64 64"),
    ),
    "tas-c100-r32-compares": _Published(
        (5, 5, 5),
        _numbers("16 4 4 4 14 6 4 8 4 4 4 32 32 9 28 28 28 28 28 32 32 64 64 64 64 64 64 64 64 64 64"),
    ),
    "tas-c100-r56": _Published(
        (5, 5, 7),
        _numbers(
            "16 16 9 14 16 14 16 8 16 8 14 4 4 4 8 4 6 4 4 32 32 32 28 32 32 32 22 32 32 32 9 25 19 25 12 9 9 64 "
            "64 64 64 64 64 64 64 64 51 19 19 19 19 25 38 19 19"
        ),
    ),
    "tas-c100-r110": _Published(
        (13, 9, 11),
        _numbers(
            "16 14 16 11 14 16 16 11 16 9 14 12 16 16 16 8 16 14 16 12 4 11 16 4 4 4 16 12 4 8 4 9 4 6 14 4 4 32 "
            "32 32 32 28 28 32 32 32 32 32 28 32 28 25 32 32 32 9 9 32 32 9 25 28 32 28 9 9 32 12 12 9 22 12 9 64 "
            "64 64 64 64 64 64 64 64 64 64 64 64 64 64 44 64 57 19 19 19 19 25 19 25 19 25 19 19 25 19 19 19 25 "
            "25 19"
        ),
    ),
    # Two that TAS is held against at equal multiply-adds and full depth: one width a stage, and random ones.
    "fix-c100-r32": _Published(
        (5, 5, 5),
        _numbers("12 12 12 12 12 12 12 12 12 12 12 25 25 25 25 25 25 25 25 25 25 50 50 50 50 50 50 50 50 50 50"),
    ),
    "rand-c100-r32": _Published(
        (5, 5, 5),
        _numbers("4 11 11 11 12 14 16 8 9 6 12 28 32 28 32 12 25 28 22 28 25 57 19 38 64 64 51 57 64 64 57"),
    ),
}

_BOTTLENECKS: dict[str, _Published] = {
    "tas-c10-r164": _Published(
        (13, 15, 13),
        _numbers(
            "16 8 16 64 6 16 64 14 16 64 8 16 64 4 16 64 6 16 64 6 16 64 11 11 64 4 14 64 4 4 57 4 16 64 9 12 57 "
            "4 16 64 4 8 57 6 6 51 6 4 44 6 4 57 6 6 19 32 32 128 32 32 128 32 32 128 9 32 128 32 32 128 25 28 "
            "115 12 32 128 32 32 128 32 32 128 32 32 102 28 32 128 16 32 128 28 19 128 32 9 51 16 12 102 12 22 "
            "115 9 12 51 12 16 38 64 64 256 64 64 256 64 64 256 64 64 256 64 64 256 64 64 256 64 64 256 64 64 256 "
            "64 64 256 64 64 256 64 57 204 64 25 179 19 25 204 44 19 153 38 25 76 19 32 128 19 51 76 57 32 76"
        ),
    ),
    "tas-c100-r164": _Published(
        (15, 15, 15),
        _numbers(
            "16 16 16 57 6 11 64 4 6 51 6 9 64 4 8 64 4 14 64 4 8 64 4 8 64 6 12 64 6 16 64 8 16 64 14 12 64 4 16 "
            "64 4 14 64 11 16 64 4 14 64 11 4 64 4 4 19 25 32 128 28 32 115 28 32 128 25 32 128 32 32 128 25 32 "
            "128 12 32 128 25 32 128 28 32 128 25 28 128 32 32 128 28 19 128 32 32 128 19 28 128 9 19 128 28 9 89 "
            "28 19 128 9 16 38 64 64 256 64 64 256 64 64 256 64 64 256 64 64 256 64 64 256 64 64 256 64 64 256 64 "
            "64 256 64 64 204 64 64 179 64 64 102 64 64 102 44 19 76 19 19 76 19 38 76 25 38 153 44 25 230"
        ),
    ),
}


def published_networks(bottleneck: bool) -> Mapping[str, Callable[[], Network]]:
    """Return what makes the published networks of a kind of block, by name: ``tas-c10-r32``, ``base-c100-r110`` …"""
    found: dict[str, Callable[[], Network]] = {}
    for data in CLASSES:
        for depth in (BOTTLENECK_BASE,) if bottleneck else BASES:
            name = f"base-{data}-r{depth}"
            blocks = (depth - 2) // (9 if bottleneck else 6)
            found[name] = partial(base_resnet, blocks, classes=CLASSES[data], name=name, bottleneck=bottleneck)
    for name, published in (_BOTTLENECKS if bottleneck else _BASIC).items():
        found[name] = partial(_network, name, published, bottleneck)
    return found


def _network(name: str, published: _Published, bottleneck: bool) -> Network:
    convs = 3 if bottleneck else 2
    widths = published.widths[1:]
    blocks = [widths[i : i + convs] for i in range(0, len(widths), convs)]
    each = len(blocks) // len(STAGES)
    stages = [blocks[s * each : s * each + kept] for s, kept in enumerate(published.kept)]
    return resnet(published.widths[0], stages, classes=CLASSES[name.split("-")[1]], name=name, bottleneck=bottleneck)
