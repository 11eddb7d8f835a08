"""From settings to objects: the only place that knows what an entry means.

`settings` is the schema. Each kind of object has a file with the table of its names.
`assemble.build` makes all objects of a run. Everything is validated here, before any work.
`reference` prints docs/settings.md.
"""
