"""report.html: one page that needs nothing but itself, for people who decide."""

from collections import Counter
from html import escape
from pathlib import Path

from rig import stats
from rig.report import charts, prose, text
from rig.report.svg import number
from rig.verdicts import MET, MISSED, NOT_MEASURED, TOO_NOISY, UNDECIDED

# Told by a sign and a word, never by a colour alone.
SIGNS = {MET: "✓", MISSED: "✕", UNDECIDED: "?", TOO_NOISY: "≈", NOT_MEASURED: "–"}


def whole(facts, settings, results, rows):
    style = (Path(__file__).parent / "page.css").read_text()
    parts = [
        "<!doctype html>", '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>tollgate: what it costs</title><style>{style}</style></head><body><main>",
        "<h1>What tollgate costs</h1>",
        f'<p class="lead">{escape(settings["date"])}, commit {escape(facts["commit"])}, {escape(settings["run"])}. '
        f'Every raw figure: <a href="report.json">report.json</a>; as text: <a href="report.txt">report.txt</a>.</p>',
        _summary(rows), _warnings(settings, results), _targets(rows), _charts(results),
        "<h2>How it was measured</h2>", _list(prose.METHOD),
        "<h2>What these figures do not say</h2>", _list(prose.CAVEATS),
        "<h2>How to read a verdict</h2>", _list(prose.VERDICTS),
        _tables(results), _facts(facts, settings, results),
        "<h2>Do it again</h2>", f"<pre>{escape(prose.AGAIN)}</pre>",
        "</main></body></html>",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def _summary(rows):
    counted = Counter(row.verdict for row in rows)
    items = "".join(f'<li><b>{counted[verdict]}</b><span class="v {_kind(verdict)}">{SIGNS[verdict]} {verdict}</span></li>'
                    for verdict in SIGNS if counted[verdict])
    return (f'<p class="sum">{prose.WHAT}</p><p>Of {len(rows)} targets:</p><ul class="tally">{items}</ul>')


def _warnings(settings, results):
    told = []
    wrong = results.wrong()
    if wrong:
        told.append(f"Wrong answers in {len(wrong)} bursts: the figures below are of a system that does not work. "
                    f"The first: {wrong[0].gateway}, {', '.join(wrong[0].notes)}.")
    told += [f"The part “{stage}” failed: {why.splitlines()[0]}" for stage, why in results.failed.items()]
    told += [f"Not measured: {what}: {why}" for what, why in results.not_measured.items()]
    busy = {stage: share for stage, share in results.elsewhere.items() if share > 0.10}
    if busy:
        told.append("The machine was not quiet: other programs and machines had "
                    + ", ".join(f"{share:.0%} of the CPUs during {stage}" for stage, share in busy.items()) + ".")
    if settings["run"].startswith("quick"):
        told.append("A quick run: three rounds of a second. Good for a first look, not for a claim.")
    return "".join(f'<p class="warn">{escape(one)}</p>' for one in told)


def _targets(rows):
    lines = []
    for row in rows:
        why = f"<small>{escape(row.why)}</small>" if row.why else ""
        lines.append(
            f'<tr><td>{escape(row.what)}</td><td data-label="Target">{escape(row.target)}</td>'
            f'<td data-label="Measured">{escape(row.measured)}{why}</td>'
            f'<td><span class="v {_kind(row.verdict)}">{SIGNS[row.verdict]} {row.verdict}</span></td></tr>')
    return ('<table class="targets"><thead><tr><th>What</th><th>Target</th><th>Measured</th><th>Verdict</th></tr></thead>'
            f'<tbody>{"".join(lines)}</tbody></table>')


def _charts(results):
    figures = [f"<figure><figcaption><b>{escape(title)}</b>{escape(note)}</figcaption>{drawing}</figure>"
               for title, note, drawing in charts.all_of(results)]
    return f'<h2>Charts</h2><div class="charts">{"".join(figures)}</div>' if figures else ""


def _tables(results):
    """Every cell, folded away: medians over the rounds."""
    tables = []
    for stage in dict.fromkeys(sample.stage for sample in results.samples):
        lines = [_line(results.samples, cell) for cell in text.cells_of(results.of_stage(stage))]
        heads = "".join(f'<th{" class=n" if numeric else ""}>{head}</th>' for head, numeric in (
            ("what", 0), ("outcome", 0), ("connections", 1), ("gateway", 0), ("starts/s", 1), ("p50 ms", 1), ("p99 ms", 1),
            ("CPU µs", 1), ("quartiles", 1), ("Redis µs", 1), ("wrong", 1)))
        tables.append(f'<details><summary>{escape(stage)}</summary><div class="wide"><table><thead><tr>{heads}</tr></thead>'
                      f'<tbody>{"".join(lines)}</tbody></table></div></details>')
    return f'<h2>All figures</h2><p>Medians over the rounds.</p>{"".join(tables)}' if tables else ""


def _line(samples, cell):
    def told(name, over=1.0):
        found = stats.figure(samples, cell, name)
        return number(found.median / over) if found else "–"

    cpu = stats.figure(samples, cell, "gateway_cpu_us")
    wrong = sum(sample.wrong for sample in stats.of(samples, cell))
    words = (cell.variant, cell.outcome)
    numbers = (told("requests_per_second"), told("p50_us", 1e3), told("p99_us", 1e3), number(cpu.median),
               f"{number(cpu.lower)} … {number(cpu.upper)}", told("redis_cpu_us"), str(wrong))
    return ("<tr>" + "".join(f"<td>{escape(word)}</td>" for word in words)
            + f'<td class="n">{cell.connections}</td><td>{escape(cell.gateway)}</td>'
            + "".join(f'<td class="n">{escape(one)}</td>' for one in numbers) + "</tr>")


def _facts(facts, settings, results):
    told = {**facts, **settings}
    for stage, share in results.elsewhere.items():
        told[f"CPUs elsewhere, {stage}"] = f"{share:.1%} (the part took {results.took_seconds[stage]:.0f} s)"
    lines = "".join(f"<tr><td>{escape(str(name))}</td><td>{escape(str(value))}</td></tr>" for name, value in told.items())
    return f"<h2>Machine and versions</h2><table><tbody>{lines}</tbody></table>"


def _list(sentences):
    return "<ul>" + "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences) + "</ul>"


def _kind(verdict):
    return verdict.replace(" ", "-")
