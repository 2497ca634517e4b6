"""The cases of `support.awkward`, by topic, and what runs and records them."""
