"""Jetbridge: an Arrow Flight data service for AI and analytics.

The package carries the ``jetbridge`` command (``python -m jetbridge``). Read data with ``pyarrow.flight``.
"""
