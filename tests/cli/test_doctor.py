"""sluice doctor: what it finds on a core, that it changes nothing there, and that no secret leaves in its bundle."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import sqlite3
import stat
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import typer
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

import cli.databases
import cli.doctor
import cli.survey
from cli.databases import examine
from cli.machine import clock_synchronised, machine, processes
from cli.output import Failure
from cli.redact import HIDDEN, WORDS, Redactor
from sluice.outbox_tables import SCHEMA, VERSION

COLLECTOR, EXPORTER, RUNTIME = "io.sluice.OpcUaCollector", "io.sluice.StreamExporter", "io.sluice.Runtime"


class Device:
    """A core's folder as a nucleus leaves it, with what a test puts there."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in (COLLECTOR, EXPORTER, RUNTIME):
            (root / "packages" / "artifacts-unarchived" / name / "0.1.0").mkdir(parents=True)
        for name in (COLLECTOR, EXPORTER):
            python = self.work(name) / "venv" / "bin" / "python"
            python.parent.mkdir(parents=True)
            python.symlink_to("/bin/sh")
        (root / "packages" / "artifacts-unarchived" / "aws.greengrass.Nucleus" / "2.12.0").mkdir(parents=True)
        (root / "config").mkdir()
        (root / "logs").mkdir()
        self.configured(COLLECTOR, {"configVersion": 1})

    def work(self, name: str = COLLECTOR) -> Path:
        return self.root / "work" / name

    def write(self, path: str, content: str | bytes, mode: int = 0o600) -> Path:
        """A file below the root."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        file.chmod(mode)
        return file

    def configured(self, name: str, configuration: Any, mode: int = 0o600) -> None:
        self.write(f"work/{name}/last-good-configuration.json", json.dumps(configuration), mode)

    def logged(self, name: str, *lines: str) -> None:
        self.write(f"logs/{name}.log", "".join(f"{line}\n" for line in lines))

    def outbox(self, name: str = COLLECTOR) -> Path:
        """A real outbox with a stream of two batches."""
        path = self.work(name) / "outbox" / "outbox.db"
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(path)) as database, database:
            database.execute("PRAGMA journal_mode = WAL")
            for statement in SCHEMA:
                database.execute(statement)
            database.execute(f"PRAGMA user_version = {VERSION}")
            ledger, consumers = b'{"stored":200}', b'{"stream-exporter":[1,1700000000.0]}'
            database.execute(
                "INSERT INTO streams VALUES (1, 'opcua-collector/line1', '9f2c', 3, 2000, 200, ?, ?)",
                (ledger, consumers),
            )
            database.executemany(
                "INSERT INTO batches VALUES (?, 100, 1000, 1, ?)", [(1, b"x" * 1000), (2, b"y" * 1000)]
            )
        return path

    def doctor(self, *arguments: str, copied: bool = True) -> Result:
        app = typer.Typer(pretty_exceptions_enable=False)
        cli.doctor.register(app)
        more = ["--copied"] if copied else []
        return CliRunner().invoke(app, ["--root", str(self.root), *more, *arguments])

    def report(self, *arguments: str, copied: bool = True) -> dict[str, Any]:
        result = self.doctor("--json", *arguments, copied=copied)
        assert isinstance(result.exception, SystemExit | None), result.exception
        found = json.loads(result.stdout)
        assert result.exit_code == (0 if found["ok"] else 1)
        assert isinstance(found, dict)
        return found

    def problems(self) -> list[str]:
        return [problem["text"] for problem in self.report()["problems"]]


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path / "core")


def certificate(days: int) -> tuple[bytes, bytes]:
    """A certificate that is valid for so many days from now (DER), and its private key (PEM)."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Sluice OPC UA collector")])
    now = datetime.now(timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(now - timedelta(days=400))
        .not_valid_after(now + timedelta(days=days, hours=1))
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return made.public_bytes(serialization.Encoding.DER), secret


@pytest.fixture
def unprivileged() -> Iterator[None]:
    """As somebody who is not root: to root every folder is open."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    yield
    os.seteuid(before)


@pytest.fixture
def open_device() -> Iterator[Device]:
    """A core below folders that everybody may pass."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Device(Path(folder) / "core")


@pytest.mark.parametrize("closed", ["", "work", f"work/{COLLECTOR}", "packages"])
def test_a_core_that_one_may_not_read_is_told_with_sudo(
    open_device: Device, request: pytest.FixtureRequest, closed: str
) -> None:
    folder = open_device.root / closed
    folder.chmod(0o000)
    request.getfixturevalue("unprivileged")
    result = open_device.doctor("--json")
    told = str(result.exception) if closed == "" else result.stdout
    assert "cannot be read (Permission denied)" in told
    assert "run this with sudo" in told


def test_a_file_that_goes_while_it_is_looked_for_is_passed_over(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite removes its files when a component ends, and replaced files had another name a moment ago."""
    going = device.write(f"work/{COLLECTOR}/outbox/outbox.db-wal", b"")
    lstat = Path.lstat

    def gone(path: Path) -> os.stat_result:
        if path == going:
            raise FileNotFoundError(2, "No such file or directory", str(path))
        return lstat(path)

    monkeypatch.setattr(Path, "lstat", gone)
    assert device.problems() == []


# --- what it tells --------------------------------------------------------------------------------------------------


def test_a_core_that_is_well_is_told_as_such(device: Device) -> None:
    device.outbox()
    device.write(f"work/{COLLECTOR}/pki/own/certificate.der", certificate(900)[0])
    device.write(f"work/{COLLECTOR}/pki/own/private-key.pem", certificate(900)[1])
    line = {"time": "2026-03-01T10:00:00Z", "level": "WARNING", "message": "line1 is slow"}
    device.logged(COLLECTOR, json.dumps(line))
    report = device.report()
    assert report["problems"] == []
    assert (report["profile"], report["nucleus"]) == ("classic", ["2.12.0"])
    collector = report["components"][COLLECTOR]
    assert collector["versions"] == ["0.1.0"]
    [database] = collector["databases"]
    assert (database["state"], database["tables"]["batches"]) == ("ok", 2)
    assert database["streams"][0]["consumers"] == {"stream-exporter": [1, 1700000000.0]}
    [shown] = collector["certificates"]
    assert shown["subject"] == "CN=Sluice OPC UA collector"
    assert len(shown["thumbprint"]) == 40
    assert collector["log"]["last"] == {"WARNING": "2026-03-01T10:00:00Z line1 is slow"}
    text = device.doctor().stdout
    assert "Nothing is wrong." in text


def test_a_core_without_sluice_is_told(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    app = typer.Typer(pretty_exceptions_enable=False)
    cli.doctor.register(app)
    result = CliRunner().invoke(app, ["--root", str(tmp_path), "--copied"])
    assert result.exit_code == 1
    assert "has no component of Sluice: deploy one: `sluice deploy`" in result.stdout


def test_a_folder_that_is_no_core_is_refused(tmp_path: Path) -> None:
    app = typer.Typer(pretty_exceptions_enable=False)
    cli.doctor.register(app)
    result = CliRunner().invoke(app, ["--root", str(tmp_path)])
    assert "has no work, packages or logs folder" in str(result.exception)


def test_without_a_root_the_places_of_both_nuclei_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli.survey, "ROOTS", (tmp_path / "v2", tmp_path / "greengrass"))
    with pytest.raises(Failure, match="give its folder with --root, or run this with sudo"):
        cli.survey.find_root(None)
    (tmp_path / "greengrass" / "work").mkdir(parents=True)
    assert cli.survey.find_root(None) == tmp_path / "greengrass"


def test_each_thing_that_is_wrong_is_told_with_its_remedy(device: Device) -> None:
    der, key = certificate(10)
    device.write(f"work/{COLLECTOR}/pki/own/certificate.der", der)
    device.write(f"work/{COLLECTOR}/pki/own/private-key.pem", key, 0o644)
    device.write(f"work/{COLLECTOR}/pki/trusted/line1.der", certificate(-1)[0])
    device.write(f"work/{COLLECTOR}/pki/trusted/line2.crt", key)
    device.write(f"work/{COLLECTOR}/outbox/outbox.db", b"SQLite format 3\0" + b"\1" * 9000)
    device.write(f"work/{COLLECTOR}/outbox/old.db.malformed-1", b"x")
    device.write(f"work/{EXPORTER}/spool/open", b"x", 0o666)
    device.configured(EXPORTER, {"configVersion": 1}, 0o644)
    (device.work(EXPORTER) / "venv" / "bin" / "python").unlink()
    (device.work(EXPORTER) / "venv" / "bin" / "python").symlink_to("/opt/gone/python3.9")
    device.write(
        "logs/greengrass.log",
        f"x {{serviceName={COLLECTOR}, currentState=RUNNING}}\nx {{serviceName={COLLECTOR}, currentState=BROKEN}}\n",
    )
    problems = "\n".join(device.problems())
    for expected in (
        "pki/own/certificate.der expires in 10 days",
        "private-key.pem can be read by others (mode 0644): chmod 600",
        "pki/trusted/line1.der has expired",
        "line2.crt is named as a certificate and holds a private key",
        "outbox.db is malformed",
        "old.db.malformed-1 was set aside because it was malformed",
        "spool/open can be written by everybody (mode 0666)",
        f"{EXPORTER}/last-good-configuration.json can be read by others",
        "points to a Python that is gone",
        f"{COLLECTOR} is BROKEN in the nucleus's log",
    ):
        assert expected in problems


def test_components_and_runtime_have_to_be_of_one_release(device: Device) -> None:
    (device.root / "packages" / "artifacts-unarchived" / COLLECTOR / "0.2.0").mkdir()
    assert any("are of different releases: io.sluice.OpcUaCollector 0.2.0" in one for one in device.problems())


def test_a_component_without_its_runtime_is_told(device: Device) -> None:
    (device.root / "packages" / "artifacts-unarchived" / RUNTIME / "0.1.0").rmdir()
    (device.root / "packages" / "artifacts-unarchived" / RUNTIME).rmdir()
    (device.work(EXPORTER) / "venv" / "bin" / "python").unlink()
    device.configured(EXPORTER, {})
    problems = device.problems()
    assert any("io.sluice.Runtime is not on this core, and io.sluice.StreamExporter cannot" in one for one in problems)
    assert any("has no venv: its install step has not succeeded" in one for one in problems)


def test_an_outbox_that_is_nearly_full_is_told(device: Device) -> None:
    device.configured(COLLECTOR, {"outbox": {"maxSize": "8MB"}})
    with closing(sqlite3.connect(device.outbox())) as database, database:
        database.execute("UPDATE streams SET bytes = 7900000")
    assert any("keeps 8 MB of the 8 MB that it may" in one for one in device.problems())


def test_the_file_of_a_secret_is_judged_by_its_mode_and_never_read(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = device.write("secrets/line1", "hunter2-hunter2", 0o640)
    reference = {"password": {"file": str(secret)}}
    gone = {"password": {"file": "gone"}}
    device.configured(COLLECTOR, {"connections": {"line1": {"user": reference}, "line2": {"user": gone}}})
    opened: list[str] = []
    plain = cli.databases.open_plain

    def watched(path: Path) -> Any:
        opened.append(str(path))
        return plain(path)

    monkeypatch.setattr("cli.survey.open_plain", watched)
    device.write(f"work/{COLLECTOR}/pki/own/private-key.pem", certificate(1)[1])
    problems = device.problems()
    assert any("secrets/line1 holds a secret and can be read by others (mode 0640)" in one for one in problems)
    assert any("gone is named as the file of a secret and does not exist" in one for one in problems)
    assert not any("secrets" in one or one.endswith((".pem", ".key")) for one in opened)


@pytest.mark.parametrize("content", ["{", "[]", '{"a":' * 5000, "\xff"])
def test_a_malformed_configuration_costs_itself(device: Device, content: str) -> None:
    device.write(f"work/{COLLECTOR}/last-good-configuration.json", content)
    assert any("last-good-configuration.json is malformed" in one for one in device.problems())


def test_this_machine_is_looked_at_unless_the_folder_is_a_copy(device: Device) -> None:
    report = device.report(copied=False)
    assert report["machine"]["cores"] >= 1
    assert report["disk"]["free_bytes"] > 0
    assert any(f"{COLLECTOR} is installed, and no process of it was seen" in one for one in report["notes"])
    assert "machine" not in device.report()


def test_processes_are_found_by_their_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / COLLECTOR).mkdir()
    monkeypatch.chdir(tmp_path / COLLECTOR)
    found = processes(tmp_path)[COLLECTOR]
    assert found["pid"] == os.getpid()
    assert found["memory_kb"] > 1000
    assert found["open_files"] >= 3


def test_facts_of_the_machine_are_plain_values() -> None:
    assert json.dumps(machine())
    assert clock_synchronised() in (True, False, None)


# --- nothing is changed ---------------------------------------------------------------------------------------------


def tree(folder: Path) -> dict[str, Any]:
    """Everything that a change would change."""
    found = {}
    for path in sorted([folder, *folder.rglob("*")]):
        status = path.lstat()
        content = hashlib.sha256(path.read_bytes()).hexdigest() if stat.S_ISREG(status.st_mode) else ""
        found[str(path)] = (status.st_mode, status.st_size, status.st_mtime_ns, status.st_ctime_ns, content)
    return found


@pytest.fixture
def in_use(device: Device) -> Iterator[sqlite3.Connection]:
    """A connection that writes to an outbox, as a running component has it."""
    with closing(sqlite3.connect(device.outbox(), isolation_level=None)) as writer:
        writer.execute("PRAGMA journal_mode = WAL")
        writer.execute("PRAGMA wal_autocheckpoint = 0")
        writer.execute("INSERT INTO batches VALUES (3, 100, 1000, 1, x'00')")
        yield writer


def test_nothing_is_changed_also_while_a_component_writes(device: Device, in_use: sqlite3.Connection) -> None:
    before = tree(device.root)
    [database] = device.report()["components"][COLLECTOR]["databases"]
    assert database["tables"]["batches"] == 3  # what stands in the log alone is seen
    assert database["wal_bytes"] > 0
    assert tree(device.root) == before


def test_nothing_is_changed_of_a_database_that_is_not_in_use(device: Device) -> None:
    device.outbox()
    before = tree(device.root)
    assert device.report()["components"][COLLECTOR]["databases"][0]["state"] == "ok"
    assert tree(device.root) == before


def test_a_database_that_is_written_back_meanwhile_is_looked_at_again(
    device: Device, in_use: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []
    look = cli.databases._look

    def interfering(path: Path, *, immutable: bool) -> dict[str, Any]:
        looks.append(path)
        if len(looks) == 1:
            in_use.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            in_use.execute("INSERT INTO batches VALUES (4, 100, 1000, 1, x'00')")
        return look(path, immutable=immutable)

    monkeypatch.setattr(cli.databases, "_look", interfering)
    found = examine(device.work() / "outbox" / "outbox.db")
    assert (found["state"], found["tables"]["batches"], len(looks)) == ("ok", 4, 2)


def test_a_database_that_is_never_still_is_not_judged(
    device: Device, in_use: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = cli.databases._look

    def interfering(path: Path, *, immutable: bool) -> dict[str, Any]:
        in_use.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        in_use.execute("UPDATE batches SET samples = samples + 1")
        return look(path, immutable=immutable)

    monkeypatch.setattr(cli.databases, "_look", interfering)
    found = examine(device.work() / "outbox" / "outbox.db")
    assert (found["state"], found["why"]) == ("not checked", "it was written to each time that it was looked at")


def test_a_database_too_large_to_be_copied_is_told_with_its_sizes(
    device: Device, in_use: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli.databases, "LARGEST_COPY", 1000)
    found = examine(device.work() / "outbox" / "outbox.db")
    assert found["state"] == "not checked"
    assert "stop the component, or give another folder as TMPDIR" in found["why"]


def test_links_are_not_followed(device: Device, tmp_path: Path) -> None:
    """A component's user could otherwise have files of others read and bundled by the one who runs this with sudo."""
    other = tmp_path / "other.json"
    other.write_text('{"of": "somebody-else"}')
    for name in ("last-good-configuration.json", "x.db", "y.der"):
        (device.work(EXPORTER) / name).symlink_to(other)
    (device.root / "logs" / f"{EXPORTER}.log").symlink_to(other)
    device.report("--output", str(tmp_path / "bundle.tar.gz"))
    assert "somebody-else" not in str(bundle(tmp_path / "bundle.tar.gz"))


# --- the bundle -----------------------------------------------------------------------------------------------------


def bundle(path: Path) -> dict[str, bytes]:
    """The members of a bundle, and under "" its bytes as they lie on the disk and as they unpack."""
    import gzip

    raw = path.read_bytes()
    found = {"": raw + gzip.decompress(raw)}
    with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
        for member in archive.getmembers():
            file = archive.extractfile(member)
            assert file is not None
            found[member.name] = file.read()
    return found


def test_the_bundle_has_report_configuration_and_logs_for_its_owner_alone(device: Device, tmp_path: Path) -> None:
    device.logged(COLLECTOR, "one line")
    path = tmp_path / "bundle.tar.gz"
    device.report("--output", str(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    members = bundle(path)
    assert set(members) - {""} == {
        "sluice-doctor/report.json",
        f"sluice-doctor/configuration/{COLLECTOR}.json",
        f"sluice-doctor/logs/{COLLECTOR}.log",
    }
    assert members[f"sluice-doctor/logs/{COLLECTOR}.log"] == b"one line"
    assert json.loads(members["sluice-doctor/report.json"])["ok"] is True


def test_a_bundle_that_is_there_is_not_overwritten(device: Device, tmp_path: Path) -> None:
    path = tmp_path / "bundle.tar.gz"
    path.write_text("mine")
    result = device.doctor("--output", str(path))
    assert "exists already" in str(result.exception)
    assert path.read_text() == "mine"


def test_the_bundle_is_bounded_and_keeps_the_ends_of_logs(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli.doctor._ROOM < cli.doctor.LARGEST_BUNDLE == 20_000_000
    for number in range(40):
        name = f"io.sluice.Component{number}"
        device.work(name).mkdir(parents=True)
        device.logged(name, *(os.urandom(15).hex() for _ in range(1000)), f"the end of {number}")
    path = tmp_path / "bundle.tar.gz"
    monkeypatch.setattr(cli.doctor, "_ROOM", 200_000)
    device.report("--output", str(path))
    with tarfile.open(path) as archive:
        assert sum(member.size for member in archive) <= 200_000
    assert path.stat().st_size <= 200_000
    for number in range(40):
        assert bundle_end(path, f"sluice-doctor/logs/io.sluice.Component{number}.log").endswith(f"the end of {number}")


def bundle_end(path: Path, name: str) -> str:
    with tarfile.open(path) as archive:
        file = archive.extractfile(name)
        assert file is not None
        return file.read()[-100:].decode()


SECRETS = {
    "password in configuration": "Plain-Passw0rd-of-line1",
    "password of a list": "Listed-Passw0rd-2",
    "number as secret": "9876543210123",
    "secret in the place of its name": "Misplaced-Secret-77",
    "secret in the place of its key": "Misplaced-Key-78",
    "login in a URL": "Url-Login-Passw0rd",
    "token in a query": "Query-Token-445566",
    "password in a log": "Logged-Passw0rd-!x",
    "password with blanks": "three words 4711 long",
    "password in a JSON log": 'Json"Quoted"-Passw0rd',
    "password in JSON inside a message": "Nested-Passw0rd-1",
    "value of an option": "Option-Secret-5-x",
    "bearer": "bearer.token-value_0123456789",
    "basic": base64.b64encode(b"operator:Basic-Passw0rd").decode(),
    "secret key of AWS": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    "access key of AWS": "ASIAQNPTO3ECEXAMPLE1",
    "session token": base64.b64encode(os.urandom(300)).decode(),
    "JWT": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJsaW5lMSJ9.c2lnbmF0dXJlLW9mLXRoaXM",
    "token of IPC": "Q7ZK2M4XJ9PLB8TN",
    "in a sink's name": "Tag-Token-889900",
    "in a stream's name of a database": "Stream-Passw0rd-31",
    "content of a secret file": "File-Secret-1010",
    "environment": "Env-Secret-Value-9",
}
KEY = certificate(1)[1].decode()


@pytest.fixture
def planted(device: Device, tmp_path: Path) -> Path:
    """A bundle of a core on which secrets of every kind stand in every place that is read."""
    s = SECRETS
    file = device.write("secrets/x", s["content of a secret file"])
    device.configured(
        COLLECTOR,
        {
            "connections": {
                "line1": {
                    "endpoint": f"opc.tcp://operator:{s['login in a URL']}@10.0.0.5:4840/x"
                    f"?token={s['token in a query']}",
                    "user": {"name": "operator", "password": s["password in configuration"]},
                    "certificateKey": KEY,
                },
                "line2": {"user": {"password": {"secret": s["secret in the place of its name"], "key": "password"}}},
                "line3": {"user": {"password": {"secret": "sluice-x", "key": s["secret in the place of its key"]}}},
                "line4": {"user": {"passwords": [s["password of a list"]], "token": int(s["number as secret"])}},
                "line5": {"user": {"password": {"file": str(file)}}},
            },
            "tags": {f"token={s['in a sink' + chr(39) + 's name']}": 1},
        },
    )
    with closing(sqlite3.connect(device.outbox())) as database, database:
        database.execute(
            "UPDATE streams SET name = ?", (f"x/password={s['in a stream' + chr(39) + 's name of a database']}",)
        )
    nested = json.dumps({"password": s["password in JSON inside a message"]})
    device.logged(
        COLLECTOR,
        f"password={s['password in a log']}",
        f"Password: {s['password with blanks']}",
        json.dumps({"level": "INFO", "message": f"login {s['password in configuration']} refused", "user": "operator"}),
        json.dumps({"level": "INFO", "password": s["password in a JSON log"], "message": "x"}),
        json.dumps({"level": "ERROR", "message": f"got {nested}", "exception": f"Traceback\n{KEY}"}),
        json.dumps({"level": "ERROR", "message": f"again {s['password in a JSON log']}"}),
        f"x {json.dumps(nested)}",
        f"run --client-secret {s['value of an option']} --verbose",
        f"Authorization: Bearer {s['bearer']}",
        f"GET / authorization: Basic {s['basic']}",
        f"sent Basic {s['basic']}",
        f"aws_secret_access_key = {s['secret key of AWS']}",
        f"seen {s['secret key of AWS']} and {s['access key of AWS']} and {s['session token']} and {s['JWT']}",
        f"SVCUID={s['token of IPC']} then {s['token of IPC']}",
        f"export DB_PASSWORD='{s['environment']}'",
        *KEY.splitlines(),
        f"url http://x/?q={quote(s['password with blanks'])}",
        f"b64 {base64.b64encode(s['password in configuration'].encode()).decode()}",
    )
    # A key whose beginning is no longer in the end of the log that is read, and one that was cut off.
    device.logged(EXPORTER, *KEY.splitlines()[1:], "between", *KEY.splitlines()[:-2])
    device.write(
        "logs/greengrass.log", f"{{serviceName={COLLECTOR}, token={s['token of IPC']}, currentState=RUNNING}}\n"
    )
    device.write(f"work/{COLLECTOR}/pki/own/private-key.pem", KEY)
    device.write(f"work/{COLLECTOR}/pki/trusted/wrong.der", KEY)
    device.write("privKey.key", KEY)
    path = tmp_path / "bundle.tar.gz"
    result = device.doctor("--output", str(path), "--json")
    shown = device.doctor()
    (tmp_path / "shown.txt").write_text(result.output + shown.output)
    return path


@pytest.mark.parametrize("kind", sorted(SECRETS))
def test_a_planted_secret_is_in_no_byte_of_the_bundle_or_the_output(planted: Path, kind: str) -> None:
    secret = SECRETS[kind]
    everything = {**bundle(planted), "shown": planted.with_name("shown.txt").read_bytes()}
    forms = {secret, json.dumps(secret)[1:-1], quote(secret), base64.b64encode(secret.encode()).decode().rstrip("=")}
    for name, content in everything.items():
        for form in forms:
            assert form.encode() not in content, f"{kind} in {name}"


def test_no_line_of_a_private_key_is_in_the_bundle(planted: Path) -> None:
    content = bundle(planted)[""]
    for line in KEY.splitlines()[1:-1]:
        assert line.encode() not in content


def test_what_is_no_secret_stays(planted: Path) -> None:
    """A bundle of asterisks helps nobody."""
    members = bundle(planted)
    configuration = json.loads(members[f"sluice-doctor/configuration/{COLLECTOR}.json"])
    assert configuration["connections"]["line1"]["endpoint"].endswith("10.0.0.5:4840/x?token=***")
    assert configuration["connections"]["line1"]["user"] == {"name": "operator", "password": HIDDEN}
    assert configuration["connections"]["line3"]["user"]["password"]["secret"] == "sluice-x"
    log = members[f"sluice-doctor/logs/{COLLECTOR}.log"].decode()
    assert '"message": "login *** refused", "user": "operator"' in log
    assert "--verbose" in log


@given(
    st.text(st.characters(min_codepoint=33, max_codepoint=0x24FF, exclude_characters='"'), min_size=8, max_size=40),
    st.text(st.sampled_from('ab1=: ,{}"\\/'), max_size=20),
)
def test_a_secret_that_is_named_once_is_taken_out_wherever_else_it_stands(secret: str, around: str) -> None:
    redactor = Redactor()
    redacted = redactor.value({"password": secret})
    assert redacted == {"password": HIDDEN}
    log = redactor.log(
        f"{around}{secret}{around}\n{json.dumps({'message': around + secret})}\n{quote(secret, safe='')}"
    )
    done = redactor.finish(log)
    if HIDDEN not in secret and not secret.isdigit() and secret.lower() not in WORDS:
        assert secret not in done


@pytest.mark.parametrize("word", sorted(WORDS - {HIDDEN}))
def test_a_word_for_no_secret_is_hidden_beside_its_name_alone(word: str) -> None:
    """A log would be unreadable without `none` and `required`."""
    redactor = Redactor()
    assert redactor.value({"password": word}) == {"password": HIDDEN}
    assert redactor.finish(redactor.log(f"a name is {word}")) == f"a name is {word}"


@given(st.text(max_size=300))
def test_any_text_can_be_redacted(text: str) -> None:
    redactor = Redactor()
    redactor.finish(redactor.log(text))
    redactor.value({text: {text: [text]}})


@pytest.mark.parametrize(
    "text",
    [
        "the password is Hunter2xyz!",
        'Password for line1 was "Hunter two"',
        "passwd Hunter2xyz!",
        "curl -u op:Hunter2xyz! https://x",
        "curl --user op:Hunter2xyz! https://x",
        "Cookie: session=a1; other=Hunter2xyz!",
        '{"auth": {"basic": "Hunter2xyz!"}}',
        "GET /x?password%3DHunter2xyz!",
        "<password>Hunter2xyz!</password>",
        '<ns:Password Type="text">Hunter2xyz!</ns:Password>',
        "cloning with ghp_Hunter2abcdefghijkl",
        "cloning with glpat-Hunter2abcdefghijkl",
    ],
)
def test_a_secret_is_found_however_a_program_writes_it(text: str) -> None:
    assert "Hunter" not in Redactor().log(text)


@pytest.mark.parametrize(
    "text",
    [
        "connections.line1.user.password the secret sluice-line1 cannot be read: this nucleus has no Secret Manager",
        "the password is wrong, and the password was refused",
        "<tag>Reactor/Temp 1</tag>",
        "/greengrass/v2/packages/artifacts-unarchived/io.sluice.OpcUaCollector/0.1.0/sluice-opcua-collector-x86_64/run.sh",
        "connections.line1.tags.T1.node = 5 is not a node id: write nsu=urn:plant;s=Reactor.Temp",
        "stream opcua-collector/line1 epoch 9f2c51aa07be at 1042",
        "thumbprint 3f786850e387550fdab836ed7e6dc881de23001b",
        "opc.tcp://10.0.0.5:4840/plant",
    ],
)
def test_ordinary_lines_stay_as_they_are(text: str) -> None:
    assert Redactor().log(text) == text


def test_a_hostile_line_is_redacted_in_reasonable_time() -> None:
    began = time.process_time()
    for text in (
        "password" * 20_000,
        "a=" * 100_000,
        "://" * 50_000,
        "-----BEGIN PRIVATE KEY-----" * 40_000,
        "password " * 100_000,
        "<password>" * 50_000,
        "A1a/" * 50_000,
    ):
        assert len(Redactor().log(text)) <= len(text)
    assert time.process_time() - began < 30
