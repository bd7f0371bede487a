"""The PI system's points: found by everything that names them, renamed, removed, recreated."""

from __future__ import annotations

import pytest

from plant.pi.system import Change, Event, PiError, PiPoint, PiSystem, PointDefinition
from plant.pi.webid import KINDS

_S = 1_000_000_000


class _Clock:
    def now_ns(self) -> int:
        return 1000 * _S


def _system() -> tuple[PiSystem, PiPoint]:
    system = PiSystem(_Clock(), "Srv")
    return system, system.add(PointDefinition("Tag.One"))


@pytest.mark.parametrize("kind", KINDS.values())
def test_a_point_is_found_by_each_kind_of_its_web_id(kind: str) -> None:
    system, point = _system()
    system.add(PointDefinition("Another"))
    assert system.by_web_id(system.web_id_of(point, kind)) is point  # type: ignore[arg-type]


def test_names_and_paths_are_known_in_any_case() -> None:
    system, point = _system()
    assert system.by_name("tag.ONE") is point
    for path in (r"\\SRV\TAG.one", rf"\\{system.guid}\Tag.One", rf"\\Srv?{system.guid}\Tag.One?1", r"\\srv\old name?1"):
        assert system.by_path(path) is point, path
    for path in (r"\\other\Tag.One", r"\\srv\none", "Tag.One", "", r"\\srv"):
        assert system.by_path(path) is None, path


def test_a_renamed_point_keeps_its_id_and_its_events_and_loses_its_path() -> None:
    system, point = _system()
    system.write(point, Event(_S, 1.0))
    by_id, by_path = system.web_id_of(point, "IDOnly"), system.web_id_of(point, "PathOnly")
    assert system.by_web_id(by_path) is point
    system.rename(point, "Tag.Two")
    assert system.by_web_id(by_id) is point
    assert system.by_web_id(by_path) is None
    assert (point.path, len(system.archived(point))) == (r"\\Srv\Tag.Two", 1)


def test_a_recreated_point_has_another_id_and_no_events() -> None:
    system, point = _system()
    system.write(point, Event(_S, 1.0))
    old = system.web_id_of(point, "IDOnly")
    new = system.recreate(point)
    assert not point.exists
    assert (new.name, system.archived(new)) == (point.name, [])
    assert new.id != point.id
    assert system.by_web_id(old) is None
    assert system.by_name(point.name) is new


def test_a_name_is_given_once() -> None:
    system, point = _system()
    other = system.add(PointDefinition("Other"))
    with pytest.raises(PiError, match="exists"):
        system.add(PointDefinition("TAG.ONE"))
    with pytest.raises(PiError, match="exists"):
        system.rename(other, "tag.one")
    with pytest.raises(PiError, match="in use"):
        system.add(PointDefinition("New", id=point.id))
    system.rename(point, "TAG.One")
    assert point.name == "TAG.One"
    system.remove(point)
    with pytest.raises(PiError, match="does not exist"):
        system.remove(point)


def test_who_listens_hears_of_events_and_of_points() -> None:
    system, point = _system()
    heard, points = list[Change](), list[tuple[str, str]]()
    system.listeners.append(heard.extend)
    system.point_listeners.append(lambda point, change: points.append((point.name, change)))
    system.write_many([(point, Event(_S, 1.0)), (point, Event(2 * _S, 2.0))])
    system.replace(point, Event(_S, 5.0))
    system.delete(point, 2 * _S)
    system.refresh(point, _S)
    system.change(point, unit="bar")
    system.rename(point, "B")
    system.recreate(point)
    assert [(change.action, change.event.value) for change in heard] == [
        ("Add", 1.0),
        ("Add", 2.0),
        ("Update", 5.0),
        ("Delete", 2.0),
        ("Refresh", None),
    ]
    assert heard[2].event.substituted
    assert points == [("Tag.One", "changed"), ("B", "renamed"), ("B", "removed"), ("B", "added")]
    assert point.units == "bar"


def test_what_decides_how_events_are_kept_is_not_changed_in_place() -> None:
    system, point = _system()
    with pytest.raises(TypeError, match="compdev"):
        system.change(point, compdev=5.0)


def test_an_interface_sends_only_exceptions() -> None:
    system = PiSystem(_Clock())
    point = system.add(PointDefinition("P", excdev=1.0))
    for second, value in ((1, 0.0), (2, 0.5), (3, 0.6), (4, 9.0)):
        system.report(point, Event(second * _S, value))
    assert [(e.time_ns // _S, e.value) for e in system.archived(point)] == [(1, 0.0), (3, 0.6), (4, 9.0)]


def test_a_point_may_begin_with_the_event_that_it_was_created() -> None:
    system = PiSystem(_Clock())
    point = system.add(PointDefinition("P", created_event=True))
    assert [(e.time_ns, e.value) for e in system.archived(point)] == [(1000 * _S, 253)]


@pytest.mark.parametrize("name", ["", "a\\b", "a*", "a|b", "[a]"])
def test_names_that_pi_would_not_take_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        PointDefinition(name)
    with pytest.raises(ValueError, match="digital set"):
        PointDefinition("D", type="Digital")
