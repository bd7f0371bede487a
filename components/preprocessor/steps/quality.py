"""The quality gate: what the source says of a sample's quality becomes ours, and what happens to it then.

In this order, each on what the ones before left:

    nan         NaN that calls itself GOOD, and the infinities, become null, BAD `nan`
    statuses    a native status that is listed gives the quality, better or worse than the source did
    words       a text that says a quality (Bad, Scan Timeout) becomes null, of that quality, the word as its status
    numbers     with `numbers`, every other text becomes its number, or null, BAD `not-a-number`
    uncertain   what becomes of UNCERTAIN; `bad` hands it to the next line
    bad         what becomes of BAD

A tag stays the same tag whatever its type becomes: its name, unit and place are the same, and a new one would tear its
history in two. A tag that sends numbers and words comes in batches of two types. The null that a word becomes is of the
type that the tag's values are of, so that the tag is one stream of one type again, in the order of time.

A value is held only for samples that are in order: what held at the time of a late one is not known any more, so it
goes out without a value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from preprocessor.engine.block import Block, Mask, empty_values
from preprocessor.engine.mixing import as_one
from preprocessor.engine.step import SECOND, FlowContext, Step, Turn, grown
from preprocessor.numbers import number
from preprocessor.step_settings import QualitySettings
from preprocessor.steps.kept_rows import CODES, Units
from preprocessor.steps.sensor import HELD, LastGood
from sluice.columns import NAN, Quality, ValueType

NOT_A_NUMBER: Final = "not-a-number"
QUALITIES: Final[Mapping[str, Quality]] = {"good": Quality.GOOD, "uncertain": Quality.UNCERTAIN, "bad": Quality.BAD}
LONGEST_WORD: Final = 64
_TELL_EVERY: Final = 60 * SECOND
_MOST_TOLD: Final = 100  # events of one turn; tags beyond that are told of in later ones
_LONGEST_EXAMPLE: Final = 60
_TYPES: Final = {code: of for of, code in CODES.items()}

WORDS: Final[Mapping[str, Quality]] = {
    word: quality
    for quality, words in (
        (
            Quality.BAD,
            (
                # what PI writes for a value that is none, as its clients and exports show it
                "Bad",
                "Bad Input",
                "Bad Output",
                "Bad Total",
                "Bad Data",
                "Bad Quality",
                "Bad Value",
                "Set to Bad",
                "Inp OutRange",
                "Over Range",
                "Under Range",
                "I/O Timeout",
                "IO Timeout",
                "Scan Timeout",
                "Scan Off",
                "No Data",
                "No Result",
                "No Sample",
                "No Lab Data",
                "No Good Data",
                "No Good Data For Calculation",
                "Sample Bad",
                "Pt Created",
                "Point Created",
                "Shutdown",
                "Intf Shut",
                "Interface Shutdown",
                "Not Connect",
                "Not Connected",
                "Comm Fail",
                "Comm Failure",
                "Configure",
                "Config Error",
                "Calc Failed",
                "Calc Off",
                "Calc Overflow",
                "Calc Timeout",
                "Calc Crash",
                "Out of Serv",
                "Out of Service",
                "Unit Down",
                "Equip Fail",
                "DCS Failed",
                "Device Failure",
                "Sensor Failure",
                "Access Denied",
                "Arc Off-line",
                "Arc Offline",
                "Digital State",
                "Invalid Data",
                "Invalid Float",
                "Coercion Failed",
                "Substituted Bad",
                # what spreadsheets, databases and programs write
                "NaN",
                "null",
                "None",
                "N/A",
                "#N/A",
                "#VALUE!",
                "#REF!",
                "#DIV/0!",
                "#NUM!",
                "#NAME?",
                "#NULL!",
            ),
        ),
        (Quality.UNCERTAIN, ("Questionable", "Doubtful", "Uncertain", "Last Usable")),
    )
    for word in words
}
"""Texts in the place of values that say a quality, whatever their case and the blanks in and around them."""


def folded(word: str) -> str:
    """A word without what does not count: upper and lower case, blanks around it, several blanks for one."""
    return " ".join(word.split()).casefold()


class QualityGate(Step[QualitySettings]):
    """Gates samples by their quality."""

    rank: ClassVar[int] = 100

    def __init__(self, name: str, settings: QualitySettings, flow: FlowContext) -> None:
        super().__init__(name, settings, flow)
        self._words = {folded(word): quality for word, quality in WORDS.items()}
        self._words.update((folded(word), QUALITIES[quality]) for word, quality in settings.words.items())
        self._numbers_mean_words = any(number(word) is not None for word in self._words)
        self._by_code = {
            int(status, 0): QUALITIES[quality] for status, quality in settings.statuses.items() if _is_code(status)
        }
        self._by_word = {
            folded(status): QUALITIES[quality] for status, quality in settings.statuses.items() if not _is_code(status)
        }
        self._holds = "hold" in (settings.uncertain, settings.bad)
        self._last = LastGood()
        self._units = Units(flow.tags)
        self._type: NDArray[np.uint8] = np.zeros(0, dtype=np.uint8)
        self._told: dict[int, list[int]] = {}  # by slot: until when no event is due, and samples not told of

    def prepare(self, slots: Sequence[int]) -> None:
        super().prepare(slots)
        self._type = grown(self._type, len(self.flow.tags))
        self._last.forget(self._units.changed(slots))

    def process(self, blocks: Sequence[Block], turn: Turn) -> Sequence[Block]:
        for block in blocks:  # before any text is looked at: it tells what a word's null is one of
            if block.type is not ValueType.STRING:
                self._type[block.slot] = CODES[block.type]
        parts: list[Block] = []
        for block in blocks:
            chosen = self.selected(block)
            if not chosen.any():
                parts.append(block)
                continue
            gated = self._by_status(self._without_nan(block, chosen), chosen)
            parts += self._read(gated, chosen, turn) if block.type is ValueType.STRING else [gated]
        if len(parts) > 1:
            parts = as_one(parts, self.flow.mixed)
        return [self._gated(part) for part in parts]

    def save(self) -> Mapping[str, Any]:
        return {
            "type": self._type[: len(self.flow.tags)],
            "last": self._last.save() if self._holds else {},
            "told": [[slot, *told] for slot, told in self._told.items()],
        }

    def load(self, state: Mapping[str, Any]) -> None:
        types = np.array(state["type"], dtype=np.uint8)
        if types.ndim != 1 or types.max(initial=0) > max(_TYPES):
            raise ValueError("the types of the tags are not an array by tag")
        told = {int(slot): [int(until), int(untold)] for slot, until, untold in state["told"]}
        self._last.load(state["last"])
        self._type, self._told = grown(types, len(self.flow.tags)), told

    def explain(self, slot: int) -> dict[str, Any]:
        known = _TYPES.get(int(self._type[slot])) if slot < len(self._type) else None
        return {
            "applies": self.applies(slot),
            "uncertain": self.settings.uncertain,
            "bad": self.settings.bad,
            "numbers": self.settings.numbers,
            "type": None if known is None else known.value,
        }

    # --- what the source says ---

    def _without_nan(self, block: Block, chosen: Mask) -> Block:
        if block.type is not ValueType.DOUBLE:
            return block
        finite = np.isfinite(block.value)
        if finite.all():
            return block
        wrong = chosen & ~finite & (np.isinf(block.value) | (block.quality == Quality.GOOD))
        return self.mark(block, wrong, Quality.BAD, NAN).emptied(wrong)

    def _by_status(self, block: Block, chosen: Mask) -> Block:
        """The quality that native statuses mean here."""
        if not (self._by_code or self._by_word) or not block.status.any():
            return block
        codes, place = np.unique(block.status, return_inverse=True)
        meant = np.array([self._meant(code) for code in codes.tolist()], dtype=np.int64)[place]
        quality = np.where(chosen & (meant >= 0), meant, block.quality).astype(np.uint8)
        quality[chosen & (quality == Quality.GOOD) & block.nulls()] = Quality.UNCERTAIN
        if np.array_equal(quality, block.quality):
            return block
        changed = quality != block.quality
        self.count("by_status", int(np.count_nonzero(changed)))
        self.note(block, changed, "status", "changed")
        return block.with_(quality=quality)

    def _meant(self, code: int) -> int:
        """The quality that a status means; -1: none in particular."""
        if code >= 0:
            return self._by_code.get(code, -1)
        return self._by_word.get(folded(str(self.flow.words.text(code))), -1)

    # --- texts ---

    def _word(self, text: str) -> Quality | None:
        """The quality that a text says; None when it is no such word."""
        if len(text) > LONGEST_WORD:
            return None
        meant = self._words.get(folded(text))
        return None if meant is Quality.GOOD else meant

    def _read(self, block: Block, chosen: Mask, turn: Turn) -> list[Block]:
        """A block of texts as what the texts say: blocks of the types that their tags have."""
        texts: list[str | None] = block.value.tolist()
        numbers = self.settings.numbers
        words_first = self._numbers_mean_words or not numbers
        values = [np.nan] * len(texts)
        quality, status = block.quality.copy(), block.status.copy()
        said: list[int] = []
        wrong: list[int] = []
        for row in np.flatnonzero(chosen).tolist():
            text = texts[row]
            if text is None:
                continue
            if not words_first and (value := number(text)) is not None:
                values[row] = value
            elif (meant := self._word(text)) is not None:
                quality[row] = max(int(quality[row]), meant)
                status[row] = self.flow.words.code(text.strip())
                said.append(row)
            elif numbers:
                value = number(text) if words_first else None
                if value is None:
                    wrong.append(row)
                else:
                    values[row] = value
        rows = _mask(len(texts), said)
        if said:
            self.count("words", len(said))
            self.note(block, rows, "word", "changed")
        if wrong:
            missed = _mask(len(texts), wrong)
            quality[missed], status[missed] = Quality.BAD, self.flow.words.code(NOT_A_NUMBER)
            self.count(NOT_A_NUMBER, len(wrong))
            self.note(block, missed, NOT_A_NUMBER, "changed")
            self._tell(block, wrong, texts, turn)
            rows |= missed
        numbers_read = np.array(values)
        if numbers:
            self._counted("numbers", ~np.isnan(numbers_read))
        return self._typed(block.with_(quality=quality, status=status), chosen, rows, numbers_read)

    def _typed(self, block: Block, chosen: Mask, emptied: Mask, values: NDArray[np.float64]) -> list[Block]:
        """The rows by the type that they have now. emptied: the text said that there is no value."""
        text, double = CODES[ValueType.STRING], CODES[ValueType.DOUBLE]
        nulls = emptied
        if self.settings.numbers:
            nulls = emptied | (chosen & np.isnan(values))
            read = chosen & ~nulls
            if read.any():
                self._type[block.slot[read]] = double
            known = self._type[block.slot]
            target = np.where((known == 0) | (known == text), double, known)
            target[read] = double
            target[~chosen] = text
        else:
            plain = chosen & ~emptied
            if plain.any():
                self._type[block.slot[plain & ~block.nulls()]] = text
            known = self._type[block.slot]
            target = np.where(emptied & (known != 0), known, text)
        parts = []
        for code in np.unique(target).tolist():
            rows = target == code
            whole = bool(rows.all())
            part = block if whole else block.take(rows)
            gone = nulls if whole else nulls[rows]
            of = _TYPES[code]
            if of is ValueType.STRING:
                parts.append(part.emptied(gone))
            elif of is ValueType.DOUBLE:
                parts.append(part.with_(type=of, value=values if whole else values[rows]))
            else:
                parts.append(part.with_(type=of, value=empty_values(of, len(part)), null=gone.copy()))
        return parts

    def _tell(self, block: Block, rows: Sequence[int], texts: Sequence[str | None], turn: Turn) -> None:
        """An event for each tag with texts that are no number, at most once a minute."""
        due: dict[int, int] = {}
        for row in rows:
            slot = int(block.slot[row])
            told = self._told.setdefault(slot, [turn.steady, 0])
            told[1] += 1
            if turn.steady >= told[0] and len(due) < _MOST_TOLD:
                due.setdefault(slot, row)
        for slot, row in due.items():
            series, told = self.flow.tags.series[slot], self._told[slot]
            self.flow.tell(
                NOT_A_NUMBER,
                int(block.t[row]),
                step=self.name,
                tag=series.tag,
                asset=series.asset,
                example=str(texts[row])[:_LONGEST_EXAMPLE],
                samples=told[1],
            )
            told[0], told[1] = turn.steady + _TELL_EVERY, 0

    # --- what becomes of it ---

    def _gated(self, block: Block) -> Block:
        if not block.quality.any():
            if self._holds:
                self._last.remember(block, self._good(block, self.selected(block)), len(self.flow.tags))
            return block
        chosen = self.selected(block)
        settings = self.settings
        uncertain = chosen & (block.quality == Quality.UNCERTAIN)
        bad = chosen & (block.quality == Quality.BAD)
        self._counted("uncertain", uncertain)
        self._counted("bad", bad)
        if settings.uncertain == "bad" and uncertain.any():
            self.note(block, uncertain, "uncertain", "changed")
            quality = block.quality.copy()
            quality[uncertain] = Quality.BAD
            block, bad = block.with_(quality=quality), bad | uncertain
        if settings.bad == "empty":
            block = block.emptied(bad)
        if self._holds:
            rows = (uncertain & (settings.uncertain == "hold")) | (bad & (settings.bad == "hold"))
            block = self._held(block, rows, self._good(block, chosen))
        if settings.uncertain == "drop":
            block, bad = self.drop(block, uncertain, "dropped_uncertain"), bad[~uncertain]
        return self.drop(block, bad, "dropped_bad") if settings.bad == "drop" else block

    def _good(self, block: Block, chosen: Mask) -> Mask:
        good: Mask = chosen & (block.quality == Quality.GOOD)
        return good if block.late is None else good & ~block.late

    def _held(self, block: Block, rows: Mask, good: Mask) -> Block:
        """The block with the last good value in these rows, UNCERTAIN; where there is none, null and BAD."""
        size = len(self.flow.tags)
        if not rows.any():
            self._last.remember(block, good, size)
            return block
        values, known = self._last.before(block, good, size)
        self._last.remember(block, good, size)
        in_order = rows if block.late is None else rows & ~block.late
        held, missing = in_order & known, rows & ~(in_order & known)
        value, quality, status = block.value.copy(), block.quality.copy(), block.status.copy()
        value[held] = values[held]
        quality[held], quality[missing] = Quality.UNCERTAIN, Quality.BAD
        status[held] = self.flow.words.code(HELD)
        null = None if block.null is None else block.null & ~held
        self._counted(HELD, held)
        self._counted("nothing_held", missing)
        self.note(block, held, HELD, "changed")
        self.note(block, missing, "nothing_held", "changed")
        return block.with_(value=value, quality=quality, status=status, null=null).emptied(missing)

    def _counted(self, what: str, rows: Mask) -> None:
        if count := int(np.count_nonzero(rows)):
            self.count(what, count)


def _is_code(status: str) -> bool:
    """Whether a configured status is a number; hexadecimal, as servers show theirs, included."""
    try:
        return int(status, 0) >= 0
    except ValueError:
        return False


def _mask(size: int, rows: Sequence[int]) -> Mask:
    mask: Mask = np.zeros(size, dtype=np.bool_)
    mask[np.array(rows, dtype=np.intp)] = True
    return mask
