"""Secrets by reference: resolved over IPC or from a file, shown nowhere."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from localcore.ipc import IpcServer
from localcore.profile import CLASSIC, LITE, Profile
from sluice.config import SecretRef
from sluice.ipc import Ipc
from sluice.secrets import SecretError, Secrets

ME = "io.sluice.Tested"
STORED = {
    "plc": json.dumps({"user": "operator", "password": "hunter2", "port": 4840}),
    "plain-plc": "hunter3",
    "other": "hunter4",
}


@asynccontextmanager
async def secrets(tmp_path: Path, profile: Profile = CLASSIC) -> AsyncIterator[Secrets]:
    server = IpcServer(tmp_path / "ipc.socket", profile, secrets=STORED)
    await server.start()
    policy = {f"{ME}:1": {"operations": ["aws.greengrass#GetSecretValue"], "resources": ["*plc*"]}}
    server.configuration(ME).merge((), {"accessControl": {"aws.greengrass.SecretManager": policy}}, 1.0)
    ipc = Ipc(socket_path=server.address, token=server.token(ME))
    await ipc.start()
    try:
        yield Secrets(ipc, tmp_path)
    finally:
        await ipc.close()
        await server.stop()


async def refusal(source: Secrets, reference: SecretRef) -> SecretError:
    with pytest.raises(SecretError) as refused:
        await source.resolve(reference)
    assert "hunter" not in str(refused.value)
    return refused.value


async def test_a_key_of_a_json_secret_is_picked(tmp_path: Path) -> None:
    async with secrets(tmp_path) as source:
        secret = await source.resolve(SecretRef(secret="plc", key="password"))
        assert secret.reveal() == "hunter2"
        assert f"{secret} {secret!r}" == "*** ***"
        assert (await source.resolve(SecretRef(secret="plc", key="port"))).reveal() == "4840"


async def test_without_a_key_the_whole_secret_is_given(tmp_path: Path) -> None:
    async with secrets(tmp_path) as source:
        assert (await source.resolve(SecretRef(secret="plain-plc"))).reveal() == "hunter3"


async def test_what_cannot_be_resolved_over_ipc_says_why_and_what_to_do(tmp_path: Path) -> None:
    async with secrets(tmp_path) as source:
        missing = await refusal(source, SecretRef(secret="no-plc"))
        assert missing.problem == "the secret no-plc is not on this core"
        assert "cloudSecrets of aws.greengrass.SecretManager" in missing.remedy
        forbidden = await refusal(source, SecretRef(secret="other"))
        assert forbidden.problem == "the secret other may not be read by this component"
        assert "accessControl/aws.greengrass.SecretManager" in forbidden.remedy
        assert 'resources ["arn:aws:secretsmanager:*:secret:other-*"]' in forbidden.remedy
        wrong_key = await refusal(source, SecretRef(secret="plc", key="pasword"))
        assert wrong_key.problem == "the secret plc has no text under the key pasword"
        no_json = await refusal(source, SecretRef(secret="plain-plc", key="password"))
        assert no_json.problem == "the secret plain-plc is no JSON object, so it has no key password"


async def test_where_there_is_no_secret_manager_the_file_is_the_remedy(tmp_path: Path) -> None:
    async with secrets(tmp_path, LITE) as source:
        refused = await refusal(source, SecretRef(secret="plc"))
        assert refused.problem == "the secret plc cannot be read: this nucleus has no Secret Manager"
        assert refused.remedy == "put it into a file of mode 0600 and write {file: <path>} instead of {secret: …}"


async def test_a_file_of_mode_0600_is_read_and_read_again(tmp_path: Path) -> None:
    file = tmp_path / "plc.secret"
    file.write_text("hunter5\n")
    file.chmod(0o600)
    async with secrets(tmp_path, LITE) as source:
        reference = SecretRef(file=str(file))
        assert (await source.resolve(reference)).reveal() == "hunter5"
        file.write_text('{"password": "hunter6"}')
        assert (await source.resolve(SecretRef(file="plc.secret", key="password"))).reveal() == "hunter6"


async def test_a_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "plc.secret"
    file.write_text("hunter5")
    file.chmod(0o640)
    async with secrets(tmp_path) as source:
        refused = await refusal(source, SecretRef(file=str(file)))
        assert refused.problem == f"the secret file {file} can be read by others (mode 0640)"
        assert refused.remedy == f"run chmod 600 {file}"


@pytest.mark.parametrize(
    ("content", "problem"),
    [(None, "does not exist"), (b"\xff\xfehunter", "is not text"), (b"hunter" * 20_000, "is larger than 64 KiB")],
    ids=["missing", "binary", "too large"],
)
async def test_a_file_that_is_no_secret_is_refused(tmp_path: Path, content: bytes | None, problem: str) -> None:
    file = tmp_path / "plc.secret"
    if content is not None:
        file.write_bytes(content)
        file.chmod(0o600)
    async with secrets(tmp_path) as source:
        assert problem in (await refusal(source, SecretRef(file=str(file)))).problem


async def test_a_folder_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    async with secrets(tmp_path) as source:
        assert "cannot be read" in (await refusal(source, SecretRef(file=str(tmp_path)))).problem
