"""Lookup tables of measured layer latencies: layers, networks, tables, files. No framework is imported here."""

from lut._constructors import chain, conv_norm_act, global_pool, linear, pooled_shortcut, residual_add
from lut._diff import LayerDifference, TableDifference, compare_tables
from lut._layer import Layer, Node
from lut._measured_network import MeasuredNetwork
from lut._network import ChannelCurve, Network, NetworkLayer
from lut._network_file import NetworkFile, load_network, save_network
from lut._records import (
    Device,
    EndToEnd,
    Failure,
    Interval,
    Measurement,
    NotMeasured,
    Session,
    Setting,
    Software,
    Visits,
)
from lut._space import Decision, LayerSlot, SearchSpace
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
    "EndToEnd",
    "Failure",
    "Interval",
    "LatencyLutError",
    "LatencyTable",
    "Layer",
    "LayerDifference",
    "LayerError",
    "LayerSlot",
    "MeasuredNetwork",
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
