"""The inference machine: one engine for generate, eval and serve."""
