"""Containers: the supervisor that forks them, PID 1 inside each, and the object that a test holds.

Knows no store and no image: it is given the paths of layers. How the processes hang together is in ``docs/``.
"""
