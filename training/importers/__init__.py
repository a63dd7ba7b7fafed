"""The way in for the logs people already keep: one module per format, one shared end.

A format's module turns its source into a stream of `core.Item` (a call to a model, or the reason
why it cannot be mapped); `core.write_outcomes` writes the outcomes and counts the rest. Around
them: `records` reads files, `messages` finds the query in a prompt, `fields` maps tokens, costs and
metadata, `verdicts` makes one success out of many scores.

Nothing here puts text of a prompt into a message, a count or a file of rejects.
"""
