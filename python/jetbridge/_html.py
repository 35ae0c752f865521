"""Tables and bars for notebooks: every text escaped, everything bounded, colours of the page's own theme."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

from jetbridge import _text

if TYPE_CHECKING:
    from jetbridge.records import JobStatus

MAX_ROWS = 100
MAX_COLUMNS = 50


def table(header: Sequence[str], rows: Sequence[Sequence[str]], more: bool = False) -> str:
    """A table; of many rows or columns the first ones, and how many there are."""
    head = "".join(f"<th>{_cell(name)}</th>" for name in header[:MAX_COLUMNS])
    body = "".join(
        "<tr>" + "".join(f"<td>{_cell(cell)}</td>" for cell in row[:MAX_COLUMNS]) + "</tr>" for row in rows[:MAX_ROWS]
    )
    notes = []
    if len(rows) > MAX_ROWS:
        notes.append(f"{MAX_ROWS} of {len(rows)} rows")
    if len(header) > MAX_COLUMNS:
        notes.append(f"{MAX_COLUMNS} of {len(header)} columns")
    if more:
        notes.append("there are more")
    note = f"<p>{escape('; '.join(notes))}</p>" if notes else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{note}"


def pairs(lines: Iterable[tuple[str, str]]) -> str:
    """A table of names and values."""
    body = "".join(f"<tr><th>{_cell(name)}</th><td>{_cell(value)}</td></tr>" for name, value in lines)
    return f"<table><tbody>{body}</tbody></table>"


def titled(title: str, inner: str) -> str:
    """Something under a title."""
    return f"<div><strong>{_cell(title)}</strong>{inner}</div>"


def job(status: JobStatus) -> str:
    """A job: its bar, and one for each worker."""
    done, of = _text.measure(status)
    title = f"{status.kind} {status.path}: {status.state}"
    lines = [("all", _bar(done, of), _text.job_line(status))]
    for worker in status.workers[:MAX_ROWS]:
        has_bytes = bool(worker.get("bytes"))
        part, whole = ("bytes_done", "bytes") if has_bytes else ("row_groups_done", "row_groups")
        words = f"{_text.shown(part, worker.get(part, 0))} of {_text.shown(whole, worker.get(whole, 0))}"
        name = f"{str(worker.get('id', ''))[:8]} {worker.get('state', '')}"
        lines.append((name, _bar(worker.get(part, 0), worker.get(whole, 0)), words))
    body = "".join(
        f"<tr><th>{_cell(name)}</th><td>{bar}</td><td>{_cell(words)}</td></tr>" for name, bar, words in lines
    )
    return titled(title, f"<table><tbody>{body}</tbody></table>")


def _bar(done: int, of: int) -> str:
    return f'<progress value="{int(done)}" max="{max(int(of), 1)}"></progress>'


def _cell(text: str) -> str:
    return escape(_text.cut(str(text)))
