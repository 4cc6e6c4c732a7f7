"""Good and bad text, by which presets prove that they keep the one and drop the other."""
