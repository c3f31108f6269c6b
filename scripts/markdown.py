"""Writes tables in markdown."""


def markdown(rows: list[list[str]]) -> str:
    """Writes rows as a markdown table, the first of them as its head."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = [f"| {' | '.join(map(str.ljust, row, widths))} |" for row in rows]
    lines.insert(1, f"|{'|'.join('-' * (width + 2) for width in widths)}|")
    return "\n".join(lines)
