"""A fresh container for every test, in milliseconds."""
