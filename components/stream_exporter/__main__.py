"""Starts the stream exporter."""

from sluice.component import main
from stream_exporter.exporter import StreamExporter

if __name__ == "__main__":
    main(StreamExporter)
