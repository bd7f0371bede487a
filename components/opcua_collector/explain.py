"""What a connection costs its server, what the server made of what it was asked for, what an outage would cost. Pure.

Everything is computed from a description, a mapping as `Connection.describe` gives it for a connection that runs,
`probe` for one that was only tried, and `planned` here for one that nobody asked. The report is a mapping of plain
values; `text` writes it for people.

What an outage of N seconds costs a tag (Part 4, 5.12.1.5 and 5.13.1.2):

    the subscription lives for less than N      all N seconds: its queues are gone with it
    else                                        what its queue does not hold of N seconds: the oldest, or with
                                                discard: newest the newest
    a polled tag                                all N seconds: nobody looked
    the server keeps a history of it            nothing: it is read from there afterwards
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from opcua_collector.config import Connection, Tag
from opcua_collector.plan import Plan, by_group, plan
from opcua_collector.subscriptions import timing

SHOWN: Final = 20
"""Tags that are named, with what is wrong with them."""
_EVENT_BASED: Final = 0.1  # seconds between values of a node that is sampled as fast as the server can, as we reckon
_FASTEST: Final = 1e-6  # seconds: whoever grants less says nothing
_LOOKED_AT: Final = 60.0  # seconds between looks at some silent tags, where there is no heartbeat
_DAYS_LEFT: Final = 30
_SKEW: Final = 5.0
_OWN: Final = "(connection)"  # the group of the connection's own settings, as people see it

Description = Mapping[str, Any]


def planned(name: str, settings: Connection, tags: Mapping[str, Tag]) -> dict[str, Any]:
    """The description of a connection whose server grants everything that it is asked for."""
    return {
        "connection": name,
        "endpoint": settings.endpoint,
        "session_timeout_s": timing.session_timeout(settings),
        "groups": {
            group: as_planned(plan(settings, group), settings, some) for group, some in by_group(settings, tags).items()
        },
    }


def as_planned(wanted: Plan, settings: Connection, tags: Mapping[str, Tag]) -> dict[str, Any]:
    """A group of it."""
    if wanted.mode == "poll":
        return {"mode": "poll", "poll_interval_s": wanted.poll, "tags": len(tags), "polled": len(tags)}
    asked = timing.asked(wanted, settings.keep_alive)
    kinds = Counter((one.sampling, queue_of(one)) for one in map(wanted.of, tags.values()))
    return {
        "mode": "subscribe",
        "outage_s": wanted.outage,
        "requested": asdict(asked),
        "publishing_interval_s": asked.interval,
        "keep_alive_s": round(asked.interval * asked.keep_alive_count, 3),
        "lifetime_s": round(asked.interval * asked.lifetime_count, 3),
        "tags": len(tags),
        "monitored": len(tags),
        "kinds": [kind_of(wanted, count, *what, *what) for what, count in kinds.most_common()],
    }


def queue_of(wanted: Plan) -> int:
    """Values that the server is asked to keep for a tag."""
    return wanted.queue or timing.queue_size(wanted.sampling, wanted.publishing, wanted.outage)


def kind_of(
    wanted: Plan, items: int, requested_sampling: float, requested_queue: int, sampling: float, queue: int
) -> dict[str, Any]:
    """Items that are asked for alike, and of which the server made the same."""
    return {
        "items": items,
        "requested_sampling_s": requested_sampling,
        "sampling_s": sampling,
        "requested_queue": requested_queue,
        "queue": queue,
        "covers_s": round(queue * (sampling or requested_sampling or _EVENT_BASED), 1),
        "discard": wanted.discard,
        "trigger": wanted.trigger,
    }


# --- the report -----------------------------------------------------------------------------------------------------


def report(
    description: Description,
    settings: Connection,
    *,
    outage: float | None = None,
    history: Mapping[str, int] | None = None,
    bad: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Everything that can be told about a connection.

    outage: seconds; without it as long as the configuration says that one may last.
    history: of how many tags the server keeps one, by group; None: nobody knows.
    bad: what is wrong with some single tags.
    """
    groups = {
        name or _OWN: _group(group, plan(settings, name), settings, outage, (history or {}).get(name))
        for name, group in description.get("groups", {}).items()
    }
    subscribed = [one for one in groups.values() if one["mode"] == "subscribe"]
    rates = [one["values_per_s_at_most"] for one in groups.values()]
    told: dict[str, Any] = {
        **{
            key: description[key]
            for key in ("connection", "endpoint", "state", "server", "session")
            if key in description
        },
        "sessions": 1,
        "session_timeout_s": description.get("session_timeout_s"),
        "subscriptions": len(subscribed),
        "monitored_items": sum(one["items"] for one in subscribed),
        "polled_nodes": sum(one["items"] for one in groups.values() if one["mode"] == "poll"),
        "tags": sum(one["tags"] for one in groups.values()),
        "requests_per_s": _requests(groups, description, settings),
        "values_per_s_at_most": None if None in rates else round(sum(rates), 3),
        "limits": dict(description.get("limits", {})),
        "groups": groups,
        "outage": _outage(groups, outage, description.get("session_timeout_s")),
    }
    if bad or any(one.get("bad_tags") for one in groups.values()):
        told["bad_tags"] = {
            "count": sum(one.get("bad_tags", 0) for one in groups.values()),
            "some": dict(list((bad or {}).items())[:SHOWN]),
        }
    if "publishing" in description:
        told["publishing"] = dict(description["publishing"])
    if "load" in description:
        told["load"] = dict(description["load"])
    told["advice"] = list(_advice(told, settings))
    return told


def _group(
    group: Mapping[str, Any], wanted: Plan, settings: Connection, outage: float | None, history: int | None
) -> dict[str, Any]:
    tags = int(group.get("tags", 0))
    told: dict[str, Any] = {"mode": group["mode"], "tags": tags}
    seconds = wanted.outage if outage is None else outage
    if group["mode"] == "poll":
        interval = float(group["poll_interval_s"])
        items = int(group.get("polled", 0))
        told |= {"items": items, "poll_interval_s": interval, "values_per_s_at_most": round(items / interval, 3)}
        told |= {key: group[key] for key in ("poll_took_s", "registered") if key in group}
        lost = math.ceil(seconds / interval)
        told["outage"] = _cost(seconds, lost, lost * items, "nobody polls meanwhile", tags, history, settings)
    else:
        kinds = list(group.get("kinds", ()))
        told |= {
            "items": int(group.get("monitored", 0)),
            "requested": group.get("requested"),
            **{key: group.get(key) for key in ("publishing_interval_s", "keep_alive_s", "lifetime_s")},
            "kinds": kinds,
            "more_kinds": int(group.get("more_kinds", 0)),
            "revised": list(_revised(group, kinds)),
            "values_per_s_at_most": _values(kinds),
        }
        told |= {key: group[key] for key in ("late_tags", "unproven", "deadband", "queue_covers_s") if key in group}
        told["outage"] = _in_an_outage(seconds, group, kinds, tags, history, settings)
    if group.get("bad_tags"):
        told["bad_tags"] = int(group["bad_tags"])
    if wanted.heartbeat is not None:
        told["heartbeat_s"] = wanted.heartbeat
    return told


def _sampled(kind: Mapping[str, Any]) -> float:
    """Seconds between two looks at a node, as granted; 0: as fast as the server can, or what it says is none."""
    seconds = float(kind["sampling_s"])
    return seconds if math.isfinite(seconds) and seconds >= _FASTEST else 0.0


def _values(kinds: Sequence[Mapping[str, Any]]) -> float | None:
    """A second, when every node changes between any two looks; None: some are sampled as fast as the server can."""
    if not all(map(_sampled, kinds)):
        return None
    return float(round(sum(kind["items"] / _sampled(kind) for kind in kinds), 3))


def _revised(group: Mapping[str, Any], kinds: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What the server made otherwise than it was asked."""
    requested = group.get("requested") or {}
    interval = requested.get("interval")
    granted = group.get("publishing_interval_s")
    if interval and granted and not math.isclose(interval, granted, rel_tol=1e-3):
        yield f"publishing interval {seconds_text(interval)} became {seconds_text(granted)}"
    for what, count in (("keep_alive", "keep_alive_count"), ("lifetime", "lifetime_count")):
        if interval and count in requested and group.get(f"{what}_s"):
            asked, found = interval * requested[count], group[f"{what}_s"]
            if not math.isclose(asked, found, rel_tol=0.05):
                yield f"{what.replace('_', '-')} {seconds_text(asked)} became {seconds_text(found)}"
    for kind in kinds:
        asked, found = kind["requested_sampling_s"], kind["sampling_s"]
        if not math.isclose(asked, found, rel_tol=1e-3, abs_tol=1e-6):
            yield f"sampling interval {seconds_text(asked)} of {kind['items']:,} items became {seconds_text(found)}"
        if kind["requested_queue"] != kind["queue"]:
            yield f"queue {kind['requested_queue']:,} of {kind['items']:,} items became {kind['queue']:,}"


def _in_an_outage(
    seconds: float,
    group: Mapping[str, Any],
    kinds: Sequence[Mapping[str, Any]],
    tags: int,
    history: int | None,
    settings: Connection,
) -> dict[str, Any]:
    lifetime = group.get("lifetime_s")
    ended = bool(lifetime) and seconds > float(lifetime or 0)
    worst = total = 0
    for kind in kinds:
        interval = _sampled(kind) or kind["requested_sampling_s"] or _EVENT_BASED
        lost = max(0, math.ceil(seconds / interval) - (0 if ended else kind["queue"]))
        worst, total = max(worst, lost), total + lost * kind["items"]
    if ended:
        why = f"the server ends the subscription after {seconds_text(float(lifetime or 0))}, and its queues with it"
    elif worst:
        newest = any(kind.get("discard") == "newest" for kind in kinds)
        why = f"queues are full before, and drop the {'newest' if newest else 'oldest'}"
    else:
        why = "the queues hold it"
    told = _cost(seconds, worst, total, why, tags, history, settings)
    if kinds:
        told["queue_covers_s"] = min(kind["covers_s"] for kind in kinds)
    told["subscription"] = "renewed" if ended else "kept"
    return told


def _cost(
    seconds: float, worst: int, total: int, why: str, tags: int, history: int | None, settings: Connection
) -> dict[str, Any]:
    told: dict[str, Any] = {
        "seconds": seconds,
        "lost_per_tag_at_most": worst,
        "lost_values_at_most": total,
        "why": why,
    }
    if history is not None and settings.history.read:
        told["tags_with_history"] = history
        told["lost_after_history_at_most"] = math.ceil(total * max(0, tags - history) / tags) if tags else 0
    return told


def _outage(groups: Mapping[str, Mapping[str, Any]], outage: float | None, session: float | None) -> dict[str, Any]:
    longest = max((group["outage"]["seconds"] for group in groups.values()), default=outage or 0.0)
    after = [group["outage"].get("lost_after_history_at_most") for group in groups.values()]
    told: dict[str, Any] = {
        "seconds": longest,
        "lost_values_at_most": sum(group["outage"]["lost_values_at_most"] for group in groups.values()),
    }
    if None not in after:
        told["lost_after_history_at_most"] = sum(filter(None, after))
    if session:
        told["session"] = "ended, and a new one takes its subscriptions over" if longest > session else "kept"
    return told


def _requests(
    groups: Mapping[str, Mapping[str, Any]], description: Description, settings: Connection
) -> dict[str, float]:
    """A second. Publish goes at the server's own pace: at least its keep-alives, at most an answer each time."""
    limits = description.get("limits", {})
    read = max(1, int(limits.get("read", settings.load.batch)))
    look = max(1, int(limits.get("browse", settings.load.batch)))
    least = most = polls = heartbeats = 0.0
    for group in groups.values():
        if group["mode"] == "poll":
            polls += math.ceil(group["items"] / read) / group["poll_interval_s"]
            continue
        if group["keep_alive_s"] and group["publishing_interval_s"]:
            least += 1 / group["keep_alive_s"]
            most += 1 / group["publishing_interval_s"]
        if group["items"]:
            every = group.get("heartbeat_s")
            heartbeats += math.ceil(group["items"] / read) / every if every else 1 / _LOOKED_AT
    told = {"publish_at_least": least, "publish_at_most": most, "polls": polls, "heartbeats_and_checks": heartbeats}
    if settings.select:
        told["browse_at_most"] = math.ceil(settings.browse.max_nodes / look) / settings.browse.refresh
    told["ceiling_besides_publish"] = settings.load.requests_per_second
    return {name: round(rate, 3) for name, rate in told.items()}


def _advice(told: Mapping[str, Any], settings: Connection) -> Iterator[str]:
    """What is probably not as it was meant, and what mends it."""
    rates = told["requests_per_s"]
    held = rates["polls"] + rates["heartbeats_and_checks"]
    if held > rates["ceiling_besides_publish"]:
        yield (
            f"polls and heartbeats need {held:,.1f} requests/s, above load.requestsPerSecond "
            f"{rates['ceiling_besides_publish']:g}: they come late. Poll less often, or raise it"
        )
    for name, group in told["groups"].items():
        cost = group["outage"]
        left = cost.get("lost_after_history_at_most", cost["lost_values_at_most"])
        if group["mode"] == "subscribe" and left:
            yield (
                f"group {name}: an outage of {seconds_text(cost['seconds'])} costs up to "
                f"{cost['lost_per_tag_at_most']:,} values per tag ({cost['why']}). Raise the server's "
                "limits of queues, sample less often, or have it record a history"
            )
        if group["mode"] == "poll" and group.get("poll_took_s", 0) > group["poll_interval_s"]:
            yield (
                f"group {name}: a poll takes {seconds_text(group['poll_took_s'])}, longer than pollInterval "
                f"{seconds_text(group['poll_interval_s'])}: poll less often, or raise load.parallel"
            )
        if group.get("late_tags"):
            yield (
                f"group {name}: the server has newer values of {len(group['late_tags'])} tags than its subscription "
                f"brings ({', '.join(group['late_tags'][:3])}): see its log, and whether it can sample them"
            )
        if group.get("unproven"):
            yield f"group {name}: that values flow cannot be proven, because {group['unproven']}"
    session = told.get("session") or {}
    for key, whose in (
        ("certificate_days_left", "our certificate"),
        ("server_certificate_days_left", "the server's certificate"),
    ):
        if isinstance(session.get(key), (int, float)) and session[key] < _DAYS_LEFT:
            yield f"{whose} expires in {session[key]:g} days"
    ahead = (told.get("publishing") or {}).get("clock_ahead_s")
    if isinstance(ahead, (int, float)) and abs(ahead) > _SKEW:
        yield (
            f"the server's clock is {seconds_text(abs(ahead))} {'ahead of' if ahead > 0 else 'behind'} ours: set both "
            f"by NTP"
        )
    if str(session.get("policy", "")).startswith("None"):
        yield "the channel has no protection (policy None): whoever is on the network can read and change what is sent"


# --- for people -----------------------------------------------------------------------------------------------------


def text(told: Mapping[str, Any]) -> list[str]:
    """The report in lines."""
    lines = [f"{told['connection']}  {told['endpoint']}"]
    lines += [f"  {line}" for line in _head(told)]
    for name, group in told["groups"].items():
        lines.append(f"group {name}: {group['mode']}, {_many(group['tags'], 'tag')}")
        lines += [f"  {line}" for line in (_polled(group) if group["mode"] == "poll" else _subscribed(group))]
        lines.append(f"  {_loss(group['outage'])}")
    if bad := told.get("bad_tags"):
        lines.append(f"{_many(bad['count'], 'tag')} with something wrong")
        lines += [f"  {tag}: {why}" for tag, why in bad["some"].items()]
    if told["advice"]:
        lines.append("advice")
        lines += [f"  - {one}" for one in told["advice"]]
    return lines


def _head(told: Mapping[str, Any]) -> Iterator[str]:
    state = told.get("state") or {}
    if state:
        why = f": {state['why']}" if state.get("why") else ""
        yield f"state {state.get('state', '')}{why}"
    session = told.get("session") or {}
    if session:
        yield f"channel {session.get('policy', '')}" + "".join(
            f", {whose} certificate for {session[key]:g} days"
            for key, whose in (("certificate_days_left", "our"), ("server_certificate_days_left", "its"))
            if key in session
        )
    yield (
        f"1 session, {_many(told['subscriptions'], 'subscription')}, {_many(told['monitored_items'], 'monitored item')}"
        + (f", {_many(told['polled_nodes'], 'polled node')}" if told["polled_nodes"] else "")
    )
    rates = told["requests_per_s"]
    parts = [f"publish {rates['publish_at_least']:g} to {rates['publish_at_most']:g}"] if told["subscriptions"] else []
    names = {"polls": "polls", "heartbeats_and_checks": "heartbeats and checks", "browse_at_most": "browse at most"}
    parts += [f"{word} {rates[name]:g}" for name, word in names.items() if rates.get(name)]
    yield (
        f"requests/s: {', '.join(parts) or 'none'}; besides publish never above "
        f"{rates['ceiling_besides_publish']:g} (load)"
    )
    most = told["values_per_s_at_most"]
    yield "values/s: as many as the server samples" if most is None else f"values/s: {most:,.1f} at most"
    if told["limits"]:
        yield "nodes per request: " + ", ".join(f"{name} {most:,}" for name, most in told["limits"].items())
    outage = told["outage"]
    lost = f"up to {outage['lost_values_at_most']:,} values lost"
    if "lost_after_history_at_most" in outage and outage["lost_values_at_most"]:
        lost += f", {outage['lost_after_history_at_most']:,} after reading the history"
    yield (
        f"outage of {seconds_text(outage['seconds'])}: {lost if outage['lost_values_at_most'] else 'nothing lost'}"
        + (f"; session {outage['session']}" if "session" in outage else "")
    )


def _polled(group: Mapping[str, Any]) -> Iterator[str]:
    took = f", the last took {seconds_text(group['poll_took_s'])}" if "poll_took_s" in group else ""
    yield f"every {seconds_text(group['poll_interval_s'])}{took}"


def _subscribed(group: Mapping[str, Any]) -> Iterator[str]:
    if group["publishing_interval_s"]:
        yield (
            f"published every {seconds_text(group['publishing_interval_s'])}, keep-alive after "
            f"{seconds_text(group['keep_alive_s'])}, lives {seconds_text(group['lifetime_s'])} without us"
        )
    for kind in group["kinds"]:
        deadband = f", deadband {kind['deadband']}" if kind.get("deadband") else ""
        yield (
            f"{_many(kind['items'], 'item')}: sampled every {seconds_text(kind['sampling_s'])}, queue "
            f"{kind['queue']:,} covers {seconds_text(kind['covers_s'])}{deadband}"
        )
    if group["more_kinds"]:
        yield f"and {group['more_kinds']} more kinds of items"
    for one in group["revised"]:
        yield f"revised by the server: {one}"


def _loss(cost: Mapping[str, Any]) -> str:
    if not cost["lost_values_at_most"]:
        return f"outage of {seconds_text(cost['seconds'])}: nothing lost, {cost['why']}"
    line = (
        f"outage of {seconds_text(cost['seconds'])}: up to {cost['lost_per_tag_at_most']:,} values of a tag lost, "
        f"{cost['lost_values_at_most']:,} in all: {cost['why']}"
    )
    if "tags_with_history" in cost:
        line += f"; {_many(cost['tags_with_history'], 'tag')} read back from history"
    return line


def seconds_text(seconds: float) -> str:
    """0.25 -> ``250 ms``, 90 -> ``90 s``, 86400 -> ``24 h``."""
    if seconds == 0:
        return "0 s"
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 600:
        return f"{seconds:.4g} s"
    return f"{seconds / 60:.4g} min" if seconds < 7200 else f"{seconds / 3600:,.4g} h"


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"
