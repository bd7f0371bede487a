"""Stream exporter: takes samples from the local bus to AWS IoT SiteWise, Kinesis and S3 by stream manager.

`exporter` is the component and the flow from the inlet to the sinks; `sinks` makes a sink from its configuration.
`sink` holds what all sinks share (queue, pack interval, ledger), `ranges` cuts what it takes, `appending` and `files`
are the two kinds there are: messages of a stream, and files named by messages of a stream. `units` is what of it is
known durably. `lines`, `sitewise` and `kinesis` encode samples without any I/O; `s3` knows the names, keys, tasks and
status messages of exported files, `spool` their folder, `uploads` what is to become of them. `pipe` is a stream with
its export, `streams` what it must look like, `stream_client` the owner of the stream-manager SDK, and `remedies` what
an engineer reads when something fails.
"""
