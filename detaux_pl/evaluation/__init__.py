"""Metrics applied to artifacts: significance, figures, the report."""
