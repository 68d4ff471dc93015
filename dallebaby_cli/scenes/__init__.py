"""The embedded dataset: scenes that are drawn, captioned and read back."""
