"""Stream exporter: takes samples from the local bus to AWS IoT SiteWise, Kinesis Data Streams and S3 by stream manager.

`exporter` is the component and the flow from the inlet to the sinks. `sink` holds what all sinks share (queue, pack
interval, ledger, retries), `appending` and `files` are the two kinds there are: messages of a stream, and files named by
messages of a stream. `lines`, `sitewise` and `kinesis` encode samples without any I/O, `s3` knows the names, keys, tasks
and status messages of exported files. `stream_client` owns the stream-manager SDK, `streams` says what streams must look
like and `remedies` what an engineer reads when something fails.
"""
