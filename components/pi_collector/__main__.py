"""Starts the component."""

from pi_collector.collector import PiCollector
from sluice.component import main

if __name__ == "__main__":
    main(PiCollector)
