"""Lookup tables of measured layer latencies: layers, networks, tables, files. No framework is imported here."""

from lut._constructors import chain, conv_norm_act, global_pool, linear, pooled_shortcut, residual_add
from lut._diff import LayerDifference, TableDifference, compare_tables
from lut._layer import Layer, Node
from lut._network import ChannelCurve, Decision, Network, NetworkLayer, SearchSpace, SpaceLayer
from lut._network_file import NetworkFile, load_network, save_network
from lut._records import Device, Failure, Interval, Measurement, NotMeasured, Session, Setting, Software, Visits
from lut._table import LatencyTable
from lut.errors import (
    LatencyLutError,
    LayerError,
    MissingLayerError,
    TableError,
    TableFormatError,
    UnlikeTablesError,
    UsageError,
)

__all__ = [
    "ChannelCurve",
    "Decision",
    "Device",
    "Failure",
    "Interval",
    "LatencyLutError",
    "LatencyTable",
    "Layer",
    "LayerDifference",
    "LayerError",
    "Measurement",
    "MissingLayerError",
    "Network",
    "NetworkFile",
    "NetworkLayer",
    "Node",
    "NotMeasured",
    "SearchSpace",
    "Session",
    "Setting",
    "Software",
    "SpaceLayer",
    "TableDifference",
    "TableError",
    "TableFormatError",
    "UnlikeTablesError",
    "UsageError",
    "Visits",
    "chain",
    "compare_tables",
    "conv_norm_act",
    "global_pool",
    "linear",
    "load_network",
    "pooled_shortcut",
    "residual_add",
    "save_network",
]
