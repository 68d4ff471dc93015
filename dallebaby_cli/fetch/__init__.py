"""Bytes from the network: the catalogue, torrents, HTTP and Kaggle, into raw/NAME."""
