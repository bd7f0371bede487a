"""Every mistake that the PI collector's configuration can hold: configuration, what is said of it, and tag tables."""

from __future__ import annotations

from typing import Any

SHOWN = "x" * 120 + "…"
"""How a text that is too long is shown."""


def connection(**settings: Any) -> dict[str, Any]:
    given = {"url": "https://127.0.0.1:1/piwebapi", **settings}
    return {"connections": {"line1": {name: value for name, value in given.items() if value is not ...}}}


def tag(**settings: Any) -> dict[str, Any]:
    return connection(tags={"Temp": settings})


def group(**settings: Any) -> dict[str, Any]:
    return connection(groups={"fast": settings})


def filter_(**settings: Any) -> dict[str, Any]:
    return connection(select={"all": settings})


MISTAKES: list[tuple[dict[str, Any], str, dict[str, str]]] = [
    (
        connection(url=...),
        "connections.line1.url is required: add it, for example https://pi.example.com/piwebapi "
        "(connections.line1 is not applied)",
        {},
    ),
    (
        connection(url="https://reader:pw@pi/piwebapi"),
        'connections.line1.url = "https://***@pi/piwebapi" holds a login: take user and password out of '
        "it and write them under user: {name: …, password: {secret: …}} (connections.line1 is not "
        "applied)",
        {},
    ),
    (
        connection(url="pi.example.com"),
        'connections.line1.url = "pi.example.com" is no address of a PI Web API: write '
        "https://<host>/piwebapi, without anything behind it (connections.line1 is not applied)",
        {},
    ),
    (
        connection(url="https://pi:99999/piwebapi"),
        'connections.line1.url = "https://pi:99999/piwebapi" has a port that is none: write a port from '
        "1 to 65535, or leave it out for 443 (connections.line1 is not applied)",
        {},
    ),
    (
        connection(failOver=[f"https://pi{number}/piwebapi" for number in range(9)]),
        'connections.line1.failOver = ["https://pi0/piwebapi", "https://pi1/piwebapi", '
        '"https://pi2/piwebapi", "https://pi3/piwebapi", "https://pi4/piwebapi",… (216 characters) has '
        "too many entries: give at most 8 (connections.line1 is not applied)",
        {},
    ),
    (
        connection(failOver=["pi2"]),
        'connections.line1.failOver[0] = "pi2" is no address of a PI Web API: write '
        "https://<host>/piwebapi, without anything behind it (connections.line1 is not applied)",
        {},
    ),
    (
        connection(dataServer="x" * 300),
        "connections.line1.dataServer = "
        f'"{SHOWN} '
        '(300 characters)" is too long: use at most 256 characters (connections.line1 is not applied)',
        {},
    ),
    (
        connection(asset=["a"]),
        'connections.line1.asset = ["a"] is not text: write a path such as site/area/line1 '
        "(connections.line1 is not applied)",
        {},
    ),
    (
        connection(user="reader"),
        'connections.line1.user = "reader" is not a map of settings: write key: value lines below it '
        "(connections.line1 is not applied)",
        {},
    ),
    (
        connection(user={"password": {"file": "p"}}),
        "connections.line1.user.name is required: add it, for example PLANT\\reader (connections.line1 is not applied)",
        {},
    ),
    (
        connection(user={"name": "", "password": {"file": "p"}}),
        'connections.line1.user.name = "" is too short: use 1 or more characters (connections.line1 is not applied)',
        {},
    ),
    (
        connection(user={"name": "x" * 300, "password": {"file": "p"}}),
        "connections.line1.user.name = "
        f'"{SHOWN} '
        '(300 characters)" is too long: use at most 256 characters (connections.line1 is not applied)',
        {},
    ),
    (
        connection(user={"name": "reader"}),
        "connections.line1.user.password is required: add it (connections.line1 is not applied)",
        {},
    ),
    (
        connection(user={"name": "a:b", "password": {"file": "p"}}),
        'connections.line1.user = {"name": "a:b", "password": "***"} has a user name with a colon, which '
        "Basic cannot carry: write it as DOMAIN\\user (connections.line1 is not applied)",
        {},
    ),
    (
        connection(bearer="token"),
        'connections.line1.bearer = "token" is not a map of settings: write key: value lines below it '
        "(connections.line1 is not applied)",
        {},
    ),
    (
        connection(bearer={"clientId": "x"}),
        'connections.line1.bearer = {"clientId": "x"} needs either tokenUrl, clientId and clientSecret, '
        "or token: give the three of a client, or token: {secret: …} (connections.line1 is not applied)",
        {},
    ),
    (
        connection(user={"name": "r", "password": {"file": "p"}}, bearer={"token": {"file": "t"}}),
        'connections.line1 = {"url": "https://127.0.0.1:1/piwebapi", "user": {"name": "r", "password": '
        '"***"}, "bearer": {"token": "***"}} has both user and bearer: take one of the two out '
        "(connections.line1 is not applied)",
        {},
    ),
    (
        connection(headers="X-Api-Key"),
        'connections.line1.headers = "X-Api-Key" is not a map of settings: write key: value lines below '
        "it (connections.line1 is not applied)",
        {},
    ),
    (
        connection(headers={"X-Api-Key": {}}),
        "connections.line1.headers.X-Api-Key = {} needs exactly one of value and secret: give value, or "
        "secret: {secret: …} for a key (connections.line1.headers.X-Api-Key is not applied)",
        {},
    ),
    (
        connection(headers={"X-Api-Key": {"value": "a\nb"}}),
        'connections.line1.headers.X-Api-Key = {"value": "a\\nb"} has characters that no header can have: '
        "write plain printable text (connections.line1.headers.X-Api-Key is not applied)",
        {},
    ),
    (
        connection(headers={"Authorization": {"value": "x"}}),
        'connections.line1 = {"url": "https://127.0.0.1:1/piwebapi", "headers": {"Authorization": '
        "\"***\"}} has the header 'Authorization', which cannot be set: name another header, such as "
        "X-Api-Key (connections.line1 is not applied)",
        {},
    ),
    (
        connection(tls="ca.pem"),
        'connections.line1.tls = "ca.pem" is not a map of settings: write key: value lines below it '
        "(connections.line1 is not applied)",
        {},
    ),
    (
        connection(tls={"certificate": "c.pem"}),
        'connections.line1.tls = {"certificate": "c.pem"} needs certificate and key together: give key: '
        "{file: <path of a file of mode 0600>}, or neither (connections.line1 is not applied)",
        {},
    ),
    (
        connection(tls={"checkHostName": "perhaps"}),
        'connections.line1.tls.checkHostName = "perhaps" is neither true nor false: write true or false, '
        "or leave it out for true (connections.line1 is not applied)",
        {},
    ),
    (
        connection(tls={"allowAnyCertificate": "perhaps"}),
        'connections.line1.tls.allowAnyCertificate = "perhaps" is neither true nor false: write true or '
        "false, or leave it out for false (connections.line1 is not applied)",
        {},
    ),
    (
        connection(allowUnencrypted="perhaps"),
        'connections.line1.allowUnencrypted = "perhaps" is neither true nor false: write true or false, '
        "or leave it out for false (connections.line1 is not applied)",
        {},
    ),
    (
        connection(url="http://pi/piwebapi", user={"name": "reader", "password": {"file": "p"}}),
        "connections.line1.allowUnencrypted is not set, and on the way to http://pi/piwebapi others could read "
        "the password or token: write https: in the address, or allowUnencrypted: true if that is wanted; this "
        "holds for localhost as well (it is tried again; all other connections run on)",
        {},
    ),
    (
        connection(
            bearer={"tokenUrl": "http://id/token", "clientId": "gateway", "clientSecret": {"file": "p"}},
        ),
        "connections.line1.bearer.tokenUrl begins with http:, and others could read the client's secret: write https:, "
        "or set allowUnencrypted: true if that is wanted; this holds for localhost as well (it is tried again; all "
        "other connections run on)",
        {},
    ),
    (
        connection(mode="best"),
        'connections.line1.mode = "best" is not one of the allowed words: use one of: recorded, '
        "snapshot, end, interpolated, summary (connections.line1 is not applied)",
        {},
    ),
    (
        group(mode="best"),
        'connections.line1.groups.fast.mode = "best" is not one of the allowed words: use one of: '
        "recorded, snapshot, end, interpolated, summary (connections.line1.groups.fast is not applied)",
        {},
    ),
    (
        connection(transport="best"),
        'connections.line1.transport = "best" is not one of the allowed words: use one of: auto, '
        "channel, updates, poll (connections.line1 is not applied)",
        {},
    ),
    (
        group(transport="best"),
        'connections.line1.groups.fast.transport = "best" is not one of the allowed words: use one of: '
        "auto, channel, updates, poll (connections.line1.groups.fast is not applied)",
        {},
    ),
    (
        connection(gate="best"),
        'connections.line1.gate = "best" is not one of the allowed words: use one of: all, '
        "good-and-uncertain, good (connections.line1 is not applied)",
        {},
    ),
    (
        group(gate="best"),
        'connections.line1.groups.fast.gate = "best" is not one of the allowed words: use one of: all, '
        "good-and-uncertain, good (connections.line1.groups.fast is not applied)",
        {},
    ),
    (
        connection(substituted="best"),
        'connections.line1.substituted = "best" is not one of the allowed words: use one of: good, '
        "uncertain (connections.line1 is not applied)",
        {},
    ),
    (
        connection(outOfRange="best"),
        'connections.line1.outOfRange = "best" is not one of the allowed words: use one of: uncertain, '
        "bad (connections.line1 is not applied)",
        {},
    ),
    (
        connection(digitals="best"),
        'connections.line1.digitals = "best" is not one of the allowed words: use one of: name, code '
        "(connections.line1 is not applied)",
        {},
    ),
    (
        connection(pollInterval="10ms"),
        'connections.line1.pollInterval = "10ms" is too small: use 100ms or more (connections.line1 is not applied)',
        {},
    ),
    (
        connection(pollInterval="2d"),
        'connections.line1.pollInterval = "2d" is too large: use 1d or less (connections.line1 is not applied)',
        {},
    ),
    (
        connection(interval="100ms"),
        'connections.line1.interval = "100ms" is too small: use 1s or more (connections.line1 is not applied)',
        {},
    ),
    (
        connection(interval="40d"),
        'connections.line1.interval = "40d" is too large: use 31d or less (connections.line1 is not applied)',
        {},
    ),
    (
        connection(summaries=[]),
        "connections.line1.summaries = [] has too few entries: give 1 or more (connections.line1 is not applied)",
        {},
    ),
    (
        connection(summaries=["Average"] * 10),
        'connections.line1.summaries = ["Average", "Average", "Average", "Average", "Average", '
        '"Average", "Average", "Average", "Average", "Average"] has too many entries: give at most 9 '
        "(connections.line1 is not applied)",
        {},
    ),
    (
        connection(summaries=["Median"]),
        'connections.line1.summaries[0] = "Median" is not one of the allowed words: use one of: Total, '
        "Average, Minimum, Maximum, Range, StdDev, PopulationStdDev, Count, PercentGood "
        "(connections.line1 is not applied)",
        {},
    ),
    (
        connection(overlap="2d"),
        'connections.line1.overlap = "2d" is too large: use 1d or less (connections.line1 is not applied)',
        {},
    ),
    (
        connection(settle="2h"),
        'connections.line1.settle = "2h" is too large: use 1h or less (connections.line1 is not applied)',
        {},
    ),
    (
        connection(reconcile="1h"),
        'connections.line1.reconcile = "1h" is not a map of settings: write key: value lines below it '
        "(connections.line1 is not applied)",
        {},
    ),
    (
        connection(reconcile={"every": "100ms"}),
        'connections.line1.reconcile.every = "100ms" is too small: use 1s or more (connections.line1 is not applied)',
        {},
    ),
    (
        connection(reconcile={"every": "8d"}),
        'connections.line1.reconcile.every = "8d" is too large: use 7d or less (connections.line1 is not applied)',
        {},
    ),
    (
        connection(reconcile={"window": "40d"}),
        'connections.line1.reconcile.window = "40d" is too large: use 31d or less (connections.line1 is not applied)',
        {},
    ),
    (
        connection(maxBackfill="10s"),
        'connections.line1.maxBackfill = "10s" is too small: use 1m or more (connections.line1 is not applied)',
        {},
    ),
    (
        connection(maxBackfill="4000d"),
        'connections.line1.maxBackfill = "4000d" is too large: use 3650d or less (connections.line1 is not applied)',
        {},
    ),
    (
        group(pollInterval="10ms"),
        'connections.line1.groups.fast.pollInterval = "10ms" is too small: use 100ms or more '
        "(connections.line1.groups.fast is not applied)",
        {},
    ),
    (
        group(pollInterval="2d"),
        'connections.line1.groups.fast.pollInterval = "2d" is too large: use 1d or less '
        "(connections.line1.groups.fast is not applied)",
        {},
    ),
    (
        group(interval="100ms"),
        'connections.line1.groups.fast.interval = "100ms" is too small: use 1s or more '
        "(connections.line1.groups.fast is not applied)",
        {},
    ),
    (
        group(interval="40d"),
        'connections.line1.groups.fast.interval = "40d" is too large: use 31d or less '
        "(connections.line1.groups.fast is not applied)",
        {},
    ),
    (
        group(summaries=[]),
        "connections.line1.groups.fast.summaries = [] has too few entries: give 1 or more "
        "(connections.line1.groups.fast is not applied)",
        {},
    ),
    (
        group(summaries=["Average"] * 10),
        'connections.line1.groups.fast.summaries = ["Average", "Average", "Average", "Average", '
        '"Average", "Average", "Average", "Average", "Average", "Average"] has too many entries: give at '
        "most 9 (connections.line1.groups.fast is not applied)",
        {},
    ),
    (
        group(summaries=["Median"]),
        'connections.line1.groups.fast.summaries[0] = "Median" is not one of the allowed words: use one '
        "of: Total, Average, Minimum, Maximum, Range, StdDev, PopulationStdDev, Count, PercentGood "
        "(connections.line1.groups.fast is not applied)",
        {},
    ),
    (
        group(overlap="2d"),
        'connections.line1.groups.fast.overlap = "2d" is too large: use 1d or less '
        "(connections.line1.groups.fast is not applied)",
        {},
    ),
    (
        group(settle="2h"),
        'connections.line1.groups.fast.settle = "2h" is too large: use 1h or less '
        "(connections.line1.groups.fast is not applied)",
        {},
    ),
    (
        group(reconcile="1h"),
        'connections.line1.groups.fast.reconcile = "1h" is not a map of settings: write key: value lines '
        "below it (connections.line1.groups.fast is not applied)",
        {},
    ),
    (
        group(reconcile={"every": "100ms"}),
        'connections.line1.groups.fast.reconcile.every = "100ms" is too small: use 1s or more '
        "(connections.line1.groups.fast is not applied)",
        {},
    ),
    (
        group(reconcile={"every": "8d"}),
        'connections.line1.groups.fast.reconcile.every = "8d" is too large: use 7d or less '
        "(connections.line1.groups.fast is not applied)",
        {},
    ),
    (
        group(reconcile={"window": "40d"}),
        'connections.line1.groups.fast.reconcile.window = "40d" is too large: use 31d or less '
        "(connections.line1.groups.fast is not applied)",
        {},
    ),
    (
        group(maxBackfill="10s"),
        'connections.line1.groups.fast.maxBackfill = "10s" is too small: use 1m or more '
        "(connections.line1.groups.fast is not applied)",
        {},
    ),
    (
        group(maxBackfill="4000d"),
        'connections.line1.groups.fast.maxBackfill = "4000d" is too large: use 3650d or less '
        "(connections.line1.groups.fast is not applied)",
        {},
    ),
    (
        connection(initial="yesterday"),
        'connections.line1.initial = "yesterday" is neither now, nor a duration, nor a time: write now, '
        "7d, or a time such as 2026-03-01T10:00:00Z (connections.line1 is not applied)",
        {},
    ),
    (
        connection(initial="4000d"),
        'connections.line1.initial = "4000d" is longer than ten years: write now, a duration such as 7d, '
        "or a time such as 2026-03-01T10:00:00Z (connections.line1 is not applied)",
        {},
    ),
    (
        group(initial="2026-03-01T10:00:00"),
        'connections.line1.groups.fast.initial = "2026-03-01T10:00:00" is neither now, nor a duration, '
        "nor a time: write now, 7d, or a time such as 2026-03-01T10:00:00Z "
        "(connections.line1.groups.fast is not applied)",
        {},
    ),
    (
        connection(refresh="10s"),
        'connections.line1.refresh = "10s" is too small: use 1m or more (connections.line1 is not applied)',
        {},
    ),
    (
        connection(refresh="40d"),
        'connections.line1.refresh = "40d" is too large: use 30d or less (connections.line1 is not applied)',
        {},
    ),
    (
        connection(requestTimeout="100ms"),
        'connections.line1.requestTimeout = "100ms" is too small: use 1s or more (connections.line1 is not applied)',
        {},
    ),
    (
        connection(requestTimeout="20m"),
        'connections.line1.requestTimeout = "20m" is too large: use 10m or less (connections.line1 is not applied)',
        {},
    ),
    (
        connection(heartbeat="100ms"),
        'connections.line1.heartbeat = "100ms" is too small: use 1s or more (connections.line1 is not applied)',
        {},
    ),
    (
        connection(heartbeat="10m"),
        'connections.line1.heartbeat = "10m" is too large: use 5m or less (connections.line1 is not applied)',
        {},
    ),
    (
        connection(load="much"),
        'connections.line1.load = "much" is not a map of settings: write key: value lines below it '
        "(connections.line1 is not applied)",
        {},
    ),
    (
        connection(load={"requestsPerSecond": 0.1}),
        "connections.line1.load.requestsPerSecond = 0.1 is too small: use 0.5 or more (connections.line1 "
        "is not applied)",
        {},
    ),
    (
        connection(load={"requestsPerSecond": 2000}),
        "connections.line1.load.requestsPerSecond = 2000 is too large: use 1000.0 or less "
        "(connections.line1 is not applied)",
        {},
    ),
    (
        connection(load={"parallel": 0}),
        "connections.line1.load.parallel = 0 is too small: use 1 or more (connections.line1 is not applied)",
        {},
    ),
    (
        connection(load={"parallel": 20}),
        "connections.line1.load.parallel = 20 is too large: use 16 or less (connections.line1 is not applied)",
        {},
    ),
    (
        connection(load={"pointsPerRequest": 0}),
        "connections.line1.load.pointsPerRequest = 0 is too small: use 1 or more (connections.line1 is not applied)",
        {},
    ),
    (
        connection(load={"pointsPerRequest": 2000}),
        "connections.line1.load.pointsPerRequest = 2000 is too large: use 1000 or less "
        "(connections.line1 is not applied)",
        {},
    ),
    (
        connection(load={"urlBytes": 100}),
        "connections.line1.load.urlBytes = 100 is too small: use 1KB or more (connections.line1 is not applied)",
        {},
    ),
    (
        connection(load={"urlBytes": "20KB"}),
        'connections.line1.load.urlBytes = "20KB" is too large: use 16KB or less (connections.line1 is not applied)',
        {},
    ),
    (
        connection(load={"valuesPerRequest": 10}),
        "connections.line1.load.valuesPerRequest = 10 is too small: use 100 or more (connections.line1 is not applied)",
        {},
    ),
    (
        connection(load={"valuesPerRequest": 20000000}),
        "connections.line1.load.valuesPerRequest = 20000000 is too large: use 10000000 or less "
        "(connections.line1 is not applied)",
        {},
    ),
    (
        connection(load={"pointsPerChannel": 0}),
        "connections.line1.load.pointsPerChannel = 0 is too small: use 1 or more (connections.line1 is not applied)",
        {},
    ),
    (
        connection(load={"pointsPerChannel": 3000}),
        "connections.line1.load.pointsPerChannel = 3000 is too large: use 2000 or less "
        "(connections.line1 is not applied)",
        {},
    ),
    (
        connection(load={"backfillValuesPerSecond": 10}),
        "connections.line1.load.backfillValuesPerSecond = 10 is too small: use 100 or more, or 0 to read nothing "
        "of the past at present "
        "(connections.line1 is not applied)",
        {},
    ),
    (
        connection(load={"backfillValuesPerSecond": -1}),
        "connections.line1.load.backfillValuesPerSecond = -1 is too small: use 0 or more (connections.line1 is not "
        "applied)",
        {},
    ),
    (
        connection(load={"backfillValuesPerSecond": 20000000}),
        "connections.line1.load.backfillValuesPerSecond = 20000000 is too large: use 10000000 or less "
        "(connections.line1 is not applied)",
        {},
    ),
    (
        connection(groups="fast"),
        'connections.line1.groups = "fast" is not a map of settings: write key: value lines below it '
        "(connections.line1 is not applied)",
        {},
    ),
    (
        connection(select="all"),
        'connections.line1.select = "all" is not a map of settings: write key: value lines below it '
        "(connections.line1 is not applied)",
        {},
    ),
    (
        connection(tags="T"),
        'connections.line1.tags = "T" is not a map of settings: write key: value lines below it '
        "(connections.line1 is not applied)",
        {},
    ),
    (
        filter_(name="x" * 300),
        "connections.line1.select.all.name = "
        f'"{SHOWN} '
        '(300 characters)" is too long: use at most 256 characters (connections.line1.select.all is not '
        "applied)",
        {},
    ),
    (
        filter_(name="A*", source="x" * 300),
        "connections.line1.select.all.source = "
        f'"{SHOWN} '
        '(300 characters)" is too long: use at most 256 characters (connections.line1.select.all is not '
        "applied)",
        {},
    ),
    (
        filter_(query="x" * 2001),
        "connections.line1.select.all.query = "
        f'"{SHOWN} '
        '(2001 characters)" is too long: use at most 2000 characters (connections.line1.select.all is '
        "not applied)",
        {},
    ),
    (
        filter_(name="A*", exclude=["B*"] * 65),
        'connections.line1.select.all.exclude = ["B*", "B*", "B*", "B*", "B*", "B*", "B*", "B*", "B*", '
        '"B*", "B*", "B*", "B*", "B*", "B*", "B*", "B*", "B*", "B*", "B*",… (390 characters) has too '
        "many entries: give at most 64 (connections.line1.select.all is not applied)",
        {},
    ),
    (
        filter_(name="A*", exclude=["x" * 300]),
        "connections.line1.select.all.exclude[0] = "
        f'"{SHOWN} '
        '(300 characters)" is too long: use at most 256 characters (connections.line1.select.all is not '
        "applied)",
        {},
    ),
    (
        filter_(name="A*", prefix="x" * 200),
        "connections.line1.select.all.prefix = "
        f'"{SHOWN} '
        '(200 characters)" is too long: use at most 128 characters (connections.line1.select.all is not '
        "applied)",
        {},
    ),
    (
        filter_(),
        "connections.line1.select.all = {} needs either name and source or query: give name, such as "
        "Unit1.*, or a query of PI's point search (connections.line1.select.all is not applied)",
        {},
    ),
    (
        filter_(name="A*", query="Tag:=A*"),
        'connections.line1.select.all = {"name": "A*", "query": "Tag:=A*"} needs either name and source '
        "or query: give name, such as Unit1.*, or a query of PI's point search "
        "(connections.line1.select.all is not applied)",
        {},
    ),
    (
        filter_(name="A*", group="slow"),
        'connections.line1.select.all.group = "slow" is no group of this connection: write the group '
        "below the connection's groups, or leave it out (it is collected as the connection's own "
        "settings say)",
        {},
    ),
    (
        tag(),
        "connections.line1.tags.Temp = {} needs exactly one of point and path: give the point's name "
        "(point) or its path (path) (connections.line1.tags.Temp is not applied)",
        {},
    ),
    (
        tag(point="A", path="\\\\S\\A"),
        'connections.line1.tags.Temp = {"point": "A", "path": "\\\\\\\\S\\\\A"} needs exactly one of point and '
        "path: give the point's name (point) or its path (path) (connections.line1.tags.Temp is not "
        "applied)",
        {},
    ),
    (
        tag(path="S\\A"),
        'connections.line1.tags.Temp.path = "S\\\\A" is no path of a point: write \\\\SERVER\\POINT, or the '
        "point's name alone under point (connections.line1.tags.Temp is not applied)",
        {},
    ),
    (
        tag(point="S\\A"),
        'connections.line1.tags.Temp.point = "S\\\\A" is a path, and no name of a point: write it under path, as '
        "\\\\SERVER\\POINT (connections.line1.tags.Temp is not applied)",
        {},
    ),
    (
        tag(point="Unit1.*"),
        'connections.line1.tags.Temp.point = "Unit1.*" is no name of a point: none has * or ?: write it under select, '
        "as name, to have all that fit (connections.line1.tags.Temp is not applied)",
        {},
    ),
    (
        tag(point="x" * 1100),
        "connections.line1.tags.Temp.point = "
        f'"{SHOWN} '
        '(1100 characters)" is too long: use at most 1024 characters (connections.line1.tags.Temp is not '
        "applied)",
        {},
    ),
    (
        tag(point="A", group="slow"),
        'connections.line1.tags.Temp.group = "slow" is no group of this connection: write the group '
        "below the connection's groups, or leave it out (it is collected as the connection's own "
        "settings say)",
        {},
    ),
    (
        tag(point="A", pont="B"),
        'connections.line1.tags.Temp.pont = "B" is an unknown key: did you mean point? A merge cannot '
        'remove it: deploy with RESET "/connections/line1/tags/Temp/pont" (it is ignored)',
        {},
    ),
    (
        connection(tagsPackage="no/name"),
        'connections.line1.tagsPackage = "no/name" is no name of a tag package: write the name that it '
        "was made with, such as site-a, or io.sluice.Tags.site-a (connections.line1 is not applied)",
        {},
    ),
    (
        connection(tagsFile="tags.csv"),
        'connections.line1.tagsFile = "tags.csv" cannot be read: No such file or directory: put the file '
        "there, readable for the component's user, or correct the path (it gives no tags)",
        {},
    ),
    (
        connection(tagsFile="tags.csv"),
        "connections.line1.tagsFile.A = {} needs exactly one of point and path (line 2 of tags.csv): "
        "give the point's name (point) or its path (path) (connections.line1.tagsFile.A is not applied)",
        {"tags.csv": "tag,point\nA,\nB,X\n,Y\nB,Z\nC,\n"},
    ),
    (
        connection(tagsFile="tags.csv"),
        'connections.line1.tagsFile["line 4"] has no tag (line 4 of tags.csv): give it a name in the '
        "column tag (the row is left out)",
        {"tags.csv": "tag,point\nA,\nB,X\n,Y\nB,Z\nC,\n"},
    ),
    (
        connection(tagsFile="tags.csv"),
        'connections.line1.tagsFile["line 5"] = "B" is there a second time, after line 3 (line 5 of '
        "tags.csv): give each row a tag of its own (the row is left out)",
        {"tags.csv": "tag,point\nA,\nB,X\n,Y\nB,Z\nC,\n"},
    ),
    (
        connection(tagsFile="tags.csv"),
        "connections.line1.tagsFile.C = {} needs exactly one of point and path (line 6 of tags.csv): "
        "give the point's name (point) or its path (path) (connections.line1.tagsFile.C is not applied)",
        {"tags.csv": "tag,point\nA,\nB,X\n,Y\nB,Z\nC,\n"},
    ),
    (
        connection(tagsFile="tags.csv"),
        'connections.line1.tagsFile.A.path = "S\\\\A" is no path of a point (line 2 of tags.csv): write '
        "\\\\SERVER\\POINT, or the point's name alone under point (connections.line1.tagsFile.A is not "
        "applied)",
        {"tags.csv": "tag,path\nA,S\\A\n"},
    ),
    (
        connection(tagsFile="tags.csv"),
        'connections.line1.tagsFile = "tag,node" has no column point or path in its header (line 1 of '
        "tags.csv): begin the file with a line such as tag,connection,point,path,unit,asset,group (it "
        "gives no tags)",
        {"tags.csv": "tag,node\nA,i=1\n"},
    ),
]
