"""Export to AWS IoT SiteWise: each message is the JSON of one PutAssetPropertyValueEntry.

The entries are joined to a request as they are, over a plain connection that is kept open: botocore would take apart
and build up each value again, which costs more than ten times as much processor time per request.

Errors that a retry can mend are retried for their entries. Everything else gives the message up (since 2.1.8 there is
no endless retry of InvalidRequest); a request that is invalid as a whole costs all messages in it.
"""

from __future__ import annotations

import http.client
from collections.abc import Sequence
from urllib.parse import urlsplit

import orjson

from localcore.stream_manager.exports.client import CALL_TIMEOUT_S
from localcore.stream_manager.exports.exporter import Outcome
from localcore.stream_manager.store import Message

RETRIED = frozenset(
    {
        "InternalFailureException",
        "ServiceUnavailableException",
        "ThrottlingException",
        "LimitExceededException",
        "ConflictingOperationException",
    }
)


class SiteWiseDestination:
    """BatchPutAssetPropertyValue with up to ten entries."""

    max_batch_bytes = 4 << 20
    pause_s = 0.0
    position_at_once = False

    def __init__(self, endpoint: str) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(endpoint).netloc, timeout=CALL_TIMEOUT_S)

    def send(self, messages: Sequence[Message]) -> Outcome:
        entries: dict[str, Message] = {}
        unreadable: list[Message] = []
        for message in messages:
            entry_id = _entry_id(message.payload)
            if entry_id is None:
                unreadable.append(message)
            else:
                entries[entry_id] = message
        error = f"SiteWise: message {unreadable[0].sequence} is not the JSON of an entry" if unreadable else None
        if len(entries) + len(unreadable) < len(messages):
            # As one request this is invalid, and an invalid request is not tried again.
            return Outcome(skipped=messages, error="SiteWise: InvalidRequestException: entryIds repeat in the batch")
        if not entries:
            return Outcome(skipped=unreadable, error=error)
        status, code, answer = self._post(b'{"entries":[%b]}' % b",".join(m.payload for m in entries.values()))
        if status == http.client.OK:
            again: list[Message] = []
            skipped = list(unreadable)
            for refused in orjson.loads(answer)["errorEntries"]:
                codes = {problem["errorCode"] for problem in refused["errors"]}
                (again if codes <= RETRIED else skipped).append(entries[refused["entryId"]])
                error = f"SiteWise: entry {refused['entryId']}: {orjson.dumps(refused['errors']).decode()}"
            return Outcome(again=again, skipped=skipped, error=error)
        error = f"SiteWise: {status} {code}: {answer[:500].decode(errors='replace')}"
        if status >= http.client.INTERNAL_SERVER_ERROR or code in RETRIED:
            return Outcome(again=messages, error=error)
        return Outcome(skipped=messages, error=error)

    def _post(self, body: bytes) -> tuple[int, str, bytes]:
        """Status, error code and body of the answer. Raises OSError or HTTPException."""
        try:
            self._connection.request("POST", "/properties", body, {"Content-Type": "application/json"})
            response = self._connection.getresponse()
            return response.status, response.getheader("x-amzn-errortype", ""), response.read()
        except (OSError, http.client.HTTPException):
            self._connection.close()
            raise


def _entry_id(payload: bytes) -> str | None:
    try:
        entry_id = orjson.loads(payload)["entryId"]
    except (ValueError, TypeError, KeyError):
        return None
    return entry_id if isinstance(entry_id, str) else None
