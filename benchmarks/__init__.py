"""pytest-capsule beside its peers, measured in one run: ``python -m benchmarks`` (see ``--help``)."""
