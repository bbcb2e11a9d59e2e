"""Plain modules: encoders, decoders, backbones, heads."""
