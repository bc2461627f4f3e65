"""HTAS: widths and depths of ResNets by gradients through the milliseconds of a device."""
