"""The steps: one module for each kind of processing. `preprocessor.engine.step` says what a step is."""
