"""Starts the preprocessor."""

from preprocessor.preprocessor import Preprocessor
from sluice.component import main

if __name__ == "__main__":
    main(Preprocessor)
