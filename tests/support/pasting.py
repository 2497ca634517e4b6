"""Does to a script what the advice says, as a person would: by file, line and indentation."""

import re
from pathlib import Path

PLACE = re.compile(r"  (before|after|in place of) lines? (\d+)(?: to (\d+))? of ([^,:]+)[,:]")


def edits(advice):
    """What each place is given: where, the first and the last line, the file, and the code."""
    found = []
    for line in advice.splitlines():
        place = PLACE.match(line)
        if place:
            where, first, last, file = place.groups()
            found.append((where, int(first), int(last or first), file, []))
        elif found and line.startswith("    "):
            found[-1][-1].append(line[4:])
        elif not line.startswith("  "):
            found += [None] if found and found[-1] else []
    return [edit for edit in found if edit]


def pasted(advice, folder=Path()):
    """Write the changes into the files of a folder; gives how many places were changed."""
    changes = edits(advice)
    for file in {edit[3] for edit in changes}:
        path = Path(folder) / file
        lines = path.read_text().splitlines()
        mine = [edit for edit in changes if edit[3] == file]
        # from the end to the beginning, so that the numbers stay right
        for where, first, last, _, code in sorted(
            mine, key=lambda edit: -(edit[2] if edit[0] == "after" else edit[1])
        ):
            at = last if where == "after" else first - 1
            here = lines[last - 1] if where == "after" else lines[first - 1]
            first_line = lines[first - 1]
            indent = first_line[: len(first_line) - len(first_line.lstrip())] if here else ""
            new = [indent + line for line in code]
            lines[at : last if where == "in place of" else at] = new
        path.write_text("\n".join(lines) + "\n")
    return len(changes)
