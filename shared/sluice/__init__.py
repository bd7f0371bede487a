"""The library that every Sluice component carries.

Modules, from the data outwards:

    columns    samples of one value type as columns, what everything passes on
    batch      the wire form of samples, events and announcements
    cutting    columns into encoded parts that each fit a frame
    delivery   numbering, order, repeats and gaps of a stream (no I/O)
    streams    a stream's outlet and inlet on the local bus
    ipc        the supervised Greengrass IPC client
    config     a component's configuration: units, scoped errors, last good form
    secrets    references to secrets, resolved on demand
    status     what a component tells about itself
    log        single-line JSON logs
    component  one entry point: load, run, apply changes, report, stop
    tasks, retry, units, handover    waiting and ending, pauses, durations and sizes, thread to event loop

`config` gathers what is in `schema`, `problem`, `changes` and `last_good`.
"""

__version__ = "0.1.0"
