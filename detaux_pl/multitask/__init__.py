"""LightningModules that learn the principal and the auxiliary tasks."""
