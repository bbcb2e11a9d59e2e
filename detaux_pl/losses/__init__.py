"""Losses and schedules: tensors in, scalars out."""
