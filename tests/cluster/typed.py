"""The commands of a page of docs/, as somebody would type them.

A fenced block of shell is run as it stands. A comment right before a block says what else is to become of it:
`<!-- not run: REASON -->`, `<!-- runs on -->` (each line on its own, until the end) or `<!-- file: NAME -->`.
"""

import dataclasses
import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
_BLOCK = re.compile(r"(?:<!-- (?P<note>[^\n]*?) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)```\n", re.DOTALL)
_HEADING = re.compile(r"^## (.*)$", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Block:
    """One block, below the heading `section`."""

    section: str
    language: str
    text: str
    note: str

    @property
    def reason(self) -> str:
        """Why it is not run, "" if it is."""
        return self.note.partition("not run: ")[2]

    @property
    def file(self) -> str:
        """The file that it is the content of."""
        return self.note.partition("file: ")[2]

    @property
    def runs_on(self) -> bool:
        return self.note == "runs on"


def blocks(page: str) -> list[Block]:
    """All blocks of a page, in order. ValueError for a note that is none of the three."""
    text = (DOCS / page).read_text(encoding="utf-8")
    found = []
    for match in _BLOCK.finditer(text):
        headings = _HEADING.findall(text[: match.start()])
        note = match["note"] or ""
        if note and not re.fullmatch(r"not run: .+|runs on|file: \S+", note):
            raise ValueError(f"{page}: what is {note!r}?")
        found.append(Block(headings[-1] if headings else "", match["language"], match["text"], note))
    return found


def table(page: str, section: str) -> dict[str, set[str]]:
    """The last table of conditions of a section: condition → the `Status/Reason` that it may have."""
    text = (DOCS / page).read_text(encoding="utf-8").partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|", text, re.MULTILINE)
    return {name: set(re.findall(r"(?:True|False|Unknown)/\w+", cell)) for name, cell in rows}
