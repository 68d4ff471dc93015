"""The formats on disk that everything meets in: manifests, shards, tokens, weights."""
