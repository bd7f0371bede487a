"""The library that every Sluice component carries.

Modules, from the data outwards:

    columns    samples of one value type as columns, what everything passes on
    batch      the wire form of samples, events and announcements
    cutting    columns into encoded parts that each fit a frame
    delivery   a stream's two ends: numbers, cursors, repeats, gaps, what may be deleted (no I/O)
    following  a consumer as a whole: which streams, what it asks for and tells (no I/O); cursors has the wire form
    database   one SQLite file that keeps what it has promised; crash kills the process at the boundaries of a commit
    outbox     what is read and not yet with every consumer, on the database, within a quota
    streams    all of it on the local bus: outlets that keep and publish, an inlet that follows
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
