"""Columns of text, for the tables that plan and doctor print."""


def aligned(rows: list[list[str]], left: int) -> list[str]:
    """Lines of cells in columns: the first `left` columns to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
