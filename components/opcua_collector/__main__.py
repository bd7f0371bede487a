"""Starts the component."""

from opcua_collector.collector import OpcUaCollector
from sluice.component import main

if __name__ == "__main__":
    main(OpcUaCollector)
