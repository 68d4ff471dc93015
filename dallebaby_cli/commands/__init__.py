"""The skin: each command parses, builds its config, calls one stage, and prints the result."""
