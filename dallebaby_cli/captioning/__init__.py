"""Pretrained models that write captions, and what becomes of their drafts."""
