"""The library: one file is one arrow of the pipeline, named like its command."""
