"""The command `pveha`: one module a verb, listed in the table of `__main__.py`.

A verb's module has two functions: `add_parser(subparsers)` adds its parser (`subparsers` is what
`ArgumentParser.add_subparsers` returned) with `set_defaults(run=run)`, and `run(args) -> int` does the
work and returns the exit status. Modules are imported for every command line, so what is slow to import is
imported in `run`. A `run` raises `pveha.model.errors.PvehaError` (or `api.ManifestError`) to end with its
sentence and exit status 1.
"""
