"""The range of the law's exponent: known without what fits the law, so that a wrong option is told at once."""

__all__ = ["LARGEST_ALPHA"]

# The largest width to such a power is still a number.
LARGEST_ALPHA = 30.0
