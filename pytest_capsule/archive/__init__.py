"""Tar archives, in and out. Used inside a container by its init and outside by the store, hence a floor of its own."""
