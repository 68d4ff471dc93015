"""The local page and the API that programs for OpenAI's images speak: a skin over drawing, as
`commands` is one for terminals. Here alone HTTP is known."""
