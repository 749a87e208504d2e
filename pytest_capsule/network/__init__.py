"""Networks of containers: the bridge and its ports, addresses, names, and published ports.

``addresses``, ``names`` and ``ports`` are plain values and texts for the engine. ``bridge`` and ``forwarder`` run in
the supervisor's children and import only what is cheap.
"""
