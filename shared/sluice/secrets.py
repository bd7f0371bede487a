"""Secrets by reference: resolved when they are needed, shown nowhere.

A reference (`sluice.config.SecretRef`) names a secret of AWS Secrets Manager, which Greengrass Secret Manager hands out
over local IPC, or a file of mode 0600 for cores without Secret Manager (nucleus lite). Nothing is kept: whoever needs
the secret asks again, after a refused login above all, because secrets are rotated.
"""

from __future__ import annotations

import asyncio
import json
import stat
from pathlib import Path

from sluice.config import SecretRef
from sluice.ipc import Ipc, IpcError, IpcNotFound, IpcUnauthorized, IpcUnsupported
from sluice.log import Secret

_LARGEST = 65_536  # the limit of Secrets Manager, applied to files as well


class SecretError(Exception):
    """A reference that cannot be resolved: `problem` says why, `remedy` what to do. Never holds anything secret."""

    def __init__(self, problem: str, remedy: str) -> None:
        self.problem = problem
        self.remedy = remedy
        super().__init__(f"{problem}: {remedy}")


class Secrets:
    """Resolves references over `ipc`; the paths of files are relative to `directory`."""

    def __init__(self, ipc: Ipc, directory: Path) -> None:
        self._ipc = ipc
        self._directory = directory

    async def resolve(self, reference: SecretRef) -> Secret:
        """The secret as it is now. Raises SecretError."""
        if reference.file:
            text = await asyncio.to_thread(self._read, reference.file)
            name = f"the secret file {reference.file}"
        else:
            text = await self._ask(reference.secret)
            name = f"the secret {reference.secret}"
        return Secret(_pick(text, reference.key, name) if reference.key else text)

    async def _ask(self, secret_id: str) -> str:
        try:
            value = await self._ipc.get_secret(secret_id)
            return value if isinstance(value, str) else value.decode()
        except UnicodeDecodeError:
            raise SecretError(f"the secret {secret_id} is not text", "store it as a text or JSON secret") from None
        except IpcUnsupported:
            raise SecretError(
                f"the secret {secret_id} cannot be read: this nucleus has no Secret Manager",
                "put it into a file of mode 0600 and write {file: <path>} instead of {secret: …}",
            ) from None
        except IpcUnauthorized as error:
            raise SecretError(f"the secret {secret_id} may not be read by this component", error.remedy) from None
        except IpcNotFound:
            raise SecretError(
                f"the secret {secret_id} is not on this core",
                "name it by its ARN or name and list it under cloudSecrets of aws.greengrass.SecretManager",
            ) from None
        except IpcError as error:
            raise SecretError(
                f"the secret {secret_id} cannot be read just now ({error})",
                "it is tried again; if it persists see that aws.greengrass.SecretManager is running",
            ) from None

    def _read(self, name: str) -> str:
        path = self._directory / Path(name).expanduser()
        try:
            with path.open("rb") as file:
                mode = stat.S_IMODE(path.stat().st_mode)
                if mode & 0o077:
                    raise SecretError(
                        f"the secret file {path} can be read by others (mode {mode:04o})", f"run chmod 600 {path}"
                    )
                content = file.read(_LARGEST + 1)
        except FileNotFoundError:
            raise SecretError(f"the secret file {path} does not exist", "create it with mode 0600") from None
        except OSError as error:
            raise SecretError(
                f"the secret file {path} cannot be read ({error.strerror})",
                f"make it a file of mode 0600 that belongs to the user who runs the component: {path}",
            ) from None
        if len(content) > _LARGEST:
            raise SecretError(f"the secret file {path} is larger than 64 KiB", "check that it is the right one")
        try:
            return content.decode().rstrip("\r\n")
        except UnicodeDecodeError:
            raise SecretError(f"the secret file {path} is not text", "write the secret in UTF-8") from None


def _pick(text: str, key: str, name: str) -> str:
    try:
        content = json.loads(text)
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise SecretError(f"{name} is no JSON object, so it has no key {key}", "leave out key, or store a JSON object")
    value = content.get(key)
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        # The keys are not shown: a secret stored the wrong way round would have its value among them.
        raise SecretError(f"{name} has no text under the key {key}", "correct key, or add it to the secret")
    return str(value)
