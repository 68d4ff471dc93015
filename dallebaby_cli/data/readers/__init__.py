"""One file per raw layout: each turns what was fetched into an iterator of records."""
