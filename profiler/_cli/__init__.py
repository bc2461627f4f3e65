"""The commands about measuring: ``profile-device``, ``check-table``, ``predict-latency`` and others."""
