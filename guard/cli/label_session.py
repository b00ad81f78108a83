"""One person's sitting: row after row, a key each.

It knows no terminal: `Screen` says where keys come from and lines go.
"""

import textwrap
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from guard.cli.text import one_line, plain
from guard.dataset import Row
from guard.judgement import Judgement
from guard.label_file import LabelFile
from guard.labelling import Pick

KEYS = "y sufficient  n insufficient  s skip  u undo  q quit  ? help"

HELP = """\
Is all that the right answer needs written in these passages?

  y  sufficient: they hold it; whoever knew nothing else could answer in full
  n  insufficient: something is missing, or they contradict each other
  s  skip: nobody could tell; this row is not asked again
  u  undo: take back the last key and ask that row again
  q  quit: all labels are on disk, and the same command goes on from here

What you know yourself does not count, nor does what is likely."""

_Key = Literal["y", "n", "s", "u", "q"]
_ANSWERS = {"y": True, "n": False, "s": None}
_WORDS = {True: "sufficient", False: "insufficient"}

Wrap = Callable[[str, int], list[str]]
"""Breaks one line of text into lines of at most that many cells."""


def wrap(text: str, width: int) -> list[str]:
    """Lines of at most ``width`` characters; white space and blank lines stay."""
    return textwrap.wrap(text, width, replace_whitespace=False, drop_whitespace=False) or [""]


@dataclass(frozen=True, slots=True)
class Screen:
    """Where a session reads and writes.

    Attributes:
        read_key: waits for a key; ``""`` = there are no more.
        show: prints one line of plain text.
        width: in cells.
        height: in lines; passages beyond it are shown page by page. ``None`` = no end.
        wrap: breaks lines.
    """

    read_key: Callable[[], str]
    show: Callable[[str], None]
    width: int = 80
    height: int | None = None
    wrap: Wrap = wrap


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked: the row, how it was picked, and what a judge said of it, if one was asked."""

    row: Row
    pick: Pick
    judgement: Judgement | None


class LabelSession:
    """Asks for labels until all are given, or the person leaves.

    Args:
        asked: what to label, in this order; what the annotator has labelled or skipped is left out.
        file: where each label goes before the next row is shown.
        annotator: who answers.
        screen: where keys come from and lines go.
    """

    def __init__(
        self, asked: Sequence[Asked], file: LabelFile, annotator: str, screen: Screen
    ) -> None:
        self._all: Mapping[str, Asked] = {each.row.id: each for each in asked}
        self._file = file
        self._annotator = annotator
        self._screen = screen
        done = {entry.id for entry in file.entries(annotator)}
        self._queue = deque(each for each in asked if each.row.id not in done)
        # In the order of the lot: those labelled before are random from when it reaches them.
        self._by_lot = deque(each.row.id for each in asked if each.pick.sampling == "random")
        self._before = done
        # Rows whose verdict this person has seen: a label given now would not be blind.
        self._told = set[str]()

    @property
    def ids(self) -> Collection[str]:
        """The rows that were picked."""
        return self._all.keys()

    @property
    def total(self) -> int:
        """How many rows were picked."""
        return len(self._all)

    @property
    def done(self) -> int:
        """How many of them are labelled or skipped."""
        return self.total - len(self._queue)

    def run(self) -> None:
        """Asks row after row. Ctrl-C passes through; what was answered is on disk.

        Raises:
            ConfigError: a label cannot be written; those before it are on disk.
        """
        self._mark_random()
        while (key := self._key()) != "q":
            if key == "u":
                self._undo()
            elif self._queue:
                self._answer(self._queue[0], _ANSWERS[key])

    def _key(self) -> _Key:
        """The key that decides on the next row; after the last one it may still be taken back."""
        if self._queue:
            return self._key_for(self._present(self._queue[0]))
        self._screen.show(f"{self.done}/{self.total}")
        self._screen.show("  That was the last one.  u undo  any other key ends")
        return "u" if self._screen.read_key().casefold() == "u" else "q"

    def _answer(self, asked: Asked, sufficient: bool | None) -> None:
        id = asked.row.id
        blind = id not in self._told
        self._file.add(asked.row, sufficient, asked.pick, self._annotator, blind=blind)
        self._queue.popleft()
        if sufficient is None:
            # No verdict: should the person come back to this row, they have not seen it.
            self._screen.show("  skipped")
        else:
            self._screen.show(f"  {_WORDS[sufficient]}{self._verdict(asked, sufficient)}")
        self._screen.show("")
        self._mark_random()

    def _mark_random(self) -> None:
        """Marks what was labelled as targeted, up to the first row by lot that is still to come."""
        waiting = {each.row.id for each in self._queue}
        reached = set[str]()
        while self._by_lot and self._by_lot[0] not in waiting:
            reached.add(self._by_lot.popleft())
        if reached & self._before:
            self._file.mark_random(self._annotator, reached & self._before)

    def _verdict(self, asked: Asked, sufficient: bool) -> str:
        """What the judge said, only now, and whether they agree."""
        if asked.judgement is None:
            return ""
        self._told.add(asked.row.id)
        verdict = asked.judgement.verdict
        if verdict is None:
            return one_line(f"; the judge: not measured ({asked.judgement.reason})")
        says = verdict.p_true >= 0.5
        agree = "you agree" if says == sufficient else "you differ"
        bounds = f"{verdict.p_true:.3f} in [{verdict.low:.3f}, {verdict.high:.3f}]"
        return f"; the judge: {_WORDS[says]}, P = {bounds}: {agree}"

    def _undo(self) -> None:
        id = self._file.undo(self._annotator, self._all.keys())
        if id is None:
            self._screen.show("  There is nothing to undo.")
        else:
            self._queue.appendleft(self._all[id])
            self._screen.show("  Taken back.")
        self._screen.show("")

    # ── Showing ──────────────────────────────────────────────────────────────────────────────────

    def _present(self, asked: Asked) -> deque[list[str]]:
        """Shows the question and the first page of its passages; the other pages are returned."""
        self._screen.show(f"{self.done}/{self.total}")
        head = self._head(asked.row)
        for line in head:
            self._screen.show(line)
        pages = deque(self._pages(asked.row, len(head)))
        self._show(pages.popleft())
        return pages

    def _head(self, row: Row) -> list[str]:
        turns = [f"{turn.role}: {turn.text}" for turn in row.query.history]
        earlier = [line for turn in turns for line in self._behind("  ┊ ", turn)]
        return [*earlier, *self._behind("  ? ", row.query.question)]

    def _pages(self, row: Row, used: int) -> list[list[str]]:
        lines = list[str]()
        contexts = row.query.contexts
        for number, context in enumerate(contexts, start=1):
            lines += [f"  [{number}/{len(contexts)}]", *self._behind("  │ ", context)]
        lines = lines or ["  (no passage was retrieved)"]
        if self._screen.height is None:
            return [lines]
        # The progress above, the keys below, and a line to type on.
        height = max(4, self._screen.height - 3)
        first = max(4, height - used)
        rest = range(first, len(lines), height)
        return [lines[:first], *(lines[at : at + height] for at in rest)]

    def _behind(self, mark: str, text: str) -> list[str]:
        """The text's lines, each behind a mark: no passage can pass for what we say ourselves."""
        width = max(10, self._screen.width - len(mark))
        lines = plain(text).split("\n")
        return [mark + part for line in lines for part in self._screen.wrap(line, width)]

    def _show(self, lines: Sequence[str]) -> None:
        for line in lines:
            self._screen.show(line)

    def _key_for(self, pages: deque[list[str]]) -> _Key:
        """The key that decides; help and further pages are dealt with here."""
        self._prompt(pages)
        while True:
            match self._screen.read_key().casefold():
                case "":
                    return "q"
                case "n" if pages:
                    self._screen.show("  Not all was shown yet; what is missing may follow.")
                case ("y" | "n" | "s" | "u" | "q") as key:
                    return key
                case " " if pages:
                    self._show(pages.popleft())
                case "\n" | "\r" | " ":
                    continue
                case _:
                    self._show(HELP.splitlines())
            self._prompt(pages)

    def _prompt(self, pages: deque[list[str]]) -> None:
        # Short enough for a line of 80 cells, which `_pages` counts on.
        more = f"space more ({sum(map(len, pages))})  " if pages else ""
        self._screen.show(f"  {more}{KEYS}")
