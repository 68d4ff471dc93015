"""Raw files to image shards: readers of datasets, archives, pictures, duplicates."""
