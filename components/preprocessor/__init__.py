"""io.sluice.Preprocessor: quality, compression, aggregation, context and rules on the gateway."""
