"""LightningModules that split a representation into subspaces."""
