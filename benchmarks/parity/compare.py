"""Ours and the published code on the same weights and images: one table, and exit status 1 if a
quantity differs by more than its bound. benchmarks/parity/README.md says what is compared.

    python benchmarks/parity/compare.py --checkout tangent_task_arithmetic --run results/mini
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import quantities
import reference
import torch
from quantities import Row, Run, Theirs

from task_arithmetic.errors import UserError

QUANTITIES = (
    *("logits", "heads", "training", "vectors", "accuracies", "disentanglement"),
    "timing",
)


def table(rows: Sequence[Row]) -> str:
    """Rows as Markdown; what exceeds its bound is marked."""
    lines = [
        "| quantity | numbers | ours | theirs | largest difference | bound |",
        "|---|" + "--:|" * 5,
    ]
    for row in rows:
        if row.bound is None:  # a measurement: ours ÷ theirs
            last = f"ours ÷ theirs {row.difference:.2f} | –"
        else:
            mark = " **exceeded**" if row.exceeded else ""
            last = f"{row.difference:.2g}{mark} | {row.bound:.2g}"
        lines.append(
            f"| {row.quantity} | {row.count:,} | {row.ours:.4g} | {row.theirs:.4g} | {last} |"
        )
    return "\n".join(lines)


def status(rows: Sequence[Row]) -> int:
    """1 if a quantity exceeds its bound, else 0."""
    return int(any(row.exceeded for row in rows))


def compared(theirs: Theirs, which: Sequence[str], options: argparse.Namespace) -> list[Row]:
    """The rows of the quantities that are asked for."""
    run, rows = theirs.run, list[Row]()
    for name in which:
        began = time.perf_counter()
        if name == "timing":
            import timing

            rows += timing.steps(theirs, options.batch, options.repeats)
        elif name == "training":
            rows += quantities.training(run, theirs, options.steps)
        elif name == "disentanglement":
            rows += quantities.disentanglement(run, theirs, options.points)
        else:
            rows += getattr(quantities, name)(run, theirs)
        print(f"{name}: {time.perf_counter() - began:.0f} s", file=sys.__stderr__, flush=True)
    return rows


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add = found.add_argument
    add("--checkout", type=Path, required=True, help="a clone of gortizji/tangent_task_arithmetic")
    add("--run", type=Path, default=Path("results/mini"), help="a finished run (results/mini)")
    add("--encoder", default="", help="one of its CLIP encoders (its last)")
    add("--only", nargs="+", choices=QUANTITIES, default=QUANTITIES, metavar="QUANTITY",
        help=f"of {', '.join(QUANTITIES)}")  # fmt: skip
    add("--steps", type=int, default=20, help="optimizer steps to compare (20)")
    add("--points", type=int, default=5, help="values of α1 and of α2 of the heatmap (5)")
    add("--batch", type=int, default=16, help="images of a timed step (16)")
    add("--repeats", type=int, default=5, help="timed steps of each kind (5)")
    add("--threads", type=int, default=1, help="threads of torch (1)")
    return found


def main(words: Sequence[str] | None = None) -> int:
    options = parser().parse_args(words)
    torch.set_num_threads(options.threads)
    try:
        reference.check(options.checkout)
        run = Run(options.run, options.encoder)
        with tempfile.TemporaryDirectory() as folder:
            theirs = Theirs(options.checkout, run, Path(folder))
            with theirs:
                rows = compared(theirs, options.only, options)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"Encoder {run.encoder} of {run.folder}, CPU, torch {torch.__version__}:\n")
    print(table(rows))
    return status(rows)


if __name__ == "__main__":
    sys.exit(main())
