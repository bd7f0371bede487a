"""Web ids: the layouts of WebID 2.0, and a field sample."""

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plant.pi.webid import LAYOUTS, WebId, WebIdError, of_data_server, of_point

_SERVER = uuid.UUID("1144d7b4-8d38-4d9b-8ce0-5605828acab5")
_FIELD_SAMPLE = "F1DPtNdEETiNm02M4FYFgorKtQQwAAAARUMyQU1BWi01QjFCNFJM"


def test_a_web_id_from_the_field_is_read_and_written_again_as_it_was() -> None:
    web_id = WebId.parse(_FIELD_SAMPLE)
    assert (web_id.kind, web_id.marker, web_id.ids) == ("Full", "DP", (_SERVER, 67))
    assert web_id.path == r"\\EC2AMAZ-5B1B4RL"
    assert web_id.encode() == _FIELD_SAMPLE


def test_an_event_frame_from_the_documentation_is_read_with_both_its_guids() -> None:
    web_id = WebId.parse("I1FmDqD5loBNH0erqeqJodtALADqD5loBNH0cAAAAAAASwAg")
    assert web_id.marker == "Fm"
    assert web_id.ids[1] == uuid.UUID("96f9a00e-4d80-471f-0000-00000004b002")


@pytest.mark.parametrize(
    ("kind", "begins", "length"),
    [
        ("IDOnly", "I1DPtNdEETiNm02M4FYFgorKtQ", 32),
        ("LocalIDOnly", "L1DP", 10),
        ("DefaultIDOnly", "D1DP", 10),
        ("PathOnly", "P1DP", 4 + 14),
    ],
)
def test_each_kind_of_a_point_has_its_layout(kind: str, begins: str, length: int) -> None:
    text = of_point(_SERVER, 67, r"\\SRV\Tag7xx").encode(kind)  # type: ignore[arg-type]
    assert text.startswith(begins)
    assert len(text) == length
    assert WebId.parse(text).encode() == text


def test_paths_are_in_upper_case_and_without_their_backslashes() -> None:
    web_id = WebId.parse(of_point(_SERVER, 1, r"\\srv\käse").encode("PathOnly"))
    assert web_id.path == r"\\SRV\KÄSE"
    assert WebId.parse(of_data_server(_SERVER, r"\\srv").encode()).path == r"\\SRV"


def test_the_layouts_of_elements_and_attributes_have_their_lengths() -> None:
    guids = tuple(uuid.UUID(int=number) for number in range(3))
    assert len(WebId("IDOnly", "Em", guids[:2]).encode()) == 48
    attribute = WebId("IDOnly", "Ab", guids, owner="E").encode()
    assert (attribute[:5], len(attribute)) == ("I1AbE", 71)
    assert WebId.parse(attribute) == WebId("IDOnly", "Ab", guids, owner="E")


def test_another_version_is_read() -> None:
    assert WebId.parse("I2DP" + _FIELD_SAMPLE[4:32]).ids == (_SERVER, 67)


@pytest.mark.parametrize(
    "text", ["", "F1", "X1DPabc", "I1QQabc", "I1DPabc", _FIELD_SAMPLE[:31], _FIELD_SAMPLE[:32] + "ü", "I1DP" + "!" * 28]
)
def test_what_is_no_web_id_is_refused(text: str) -> None:
    with pytest.raises(WebIdError):
        WebId.parse(text)


def test_what_is_not_known_cannot_be_written() -> None:
    with pytest.raises(WebIdError, match="lacks"):
        WebId.parse(of_point(_SERVER, 1, r"\\S\T").encode("PathOnly")).encode("IDOnly")


@given(st.text(max_size=80))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        WebId.parse(text)
    except WebIdError:
        return


@given(
    st.sampled_from(sorted(LAYOUTS)),
    st.lists(st.uuids(), min_size=3, max_size=3),
    st.integers(-(2**31), 2**31 - 1),
    st.text(st.characters(categories=["L", "N"]), min_size=1),
)
def test_whatever_is_written_is_read_again(marker: str, guids: list[uuid.UUID], number: int, name: str) -> None:
    layout = LAYOUTS[marker]
    ids = tuple(number if length == 6 else guid for length, guid in zip(layout.ids, guids, strict=False))
    whole = WebId("Full", marker, ids, f"\\\\SRV\\{name}".upper(), "E" if layout.owned else "")
    assert WebId.parse(whole.encode()) == whole
    assert WebId.parse(whole.encode("IDOnly")).ids == ids
    assert WebId.parse(whole.encode("PathOnly")).path == whole.path
