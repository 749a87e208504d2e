"""Images on disk: blobs, layers, archives and the names that they go by."""
