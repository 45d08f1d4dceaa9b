"""The report: text for terminals, JSON for programs, one page for people."""

import json
from dataclasses import asdict

from rig import targets
from rig.report import page, text
from rig.rig import Results


def write(folder, facts, settings, results):
    """Writes report.txt, report.json and report.html; returns the text."""
    rows = targets.table(results, facts["cpus"])
    (folder / "report.json").write_text(json.dumps({
        "machine": facts, "settings": settings, "targets": [asdict(row) for row in rows], **results.as_dict(),
    }, indent=1))
    told = text.whole(facts, settings, results, rows)
    (folder / "report.txt").write_text(told)
    (folder / "report.html").write_text(page.whole(facts, settings, results, rows))
    return told


def write_again(folder):
    """The text and the page once more, from the report.json in a folder."""
    told = json.loads((folder / "report.json").read_text())
    return write(folder, told["machine"], told["settings"], Results.from_dict(told))
