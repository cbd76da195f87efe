"""The steps that MLproject's entry points call."""
