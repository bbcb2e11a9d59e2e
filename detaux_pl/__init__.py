"""Disentangled representations that discover auxiliary tasks."""
