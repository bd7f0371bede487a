"""scripts/sluice, the engineers' tool: one module per command, each with a `register(app)`.

Imported lazily: `sluice check` of ten thousand tags must not wait for the AWS SDK.
"""
