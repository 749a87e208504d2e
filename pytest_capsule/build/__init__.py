"""From a Dockerfile to an image: the context, the plan, the cache keys, and the steps carried out.

Commands run through the small protocol in ``build.steps``, so nothing here knows what a container is.
"""
