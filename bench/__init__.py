"""Measurements of the product against the bounds it promises. One module a promise: `python -m bench.NAME
--json`."""
