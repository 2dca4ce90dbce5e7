"""Task negation (paper, appendix A); α is chosen from validation rows alone."""

from ..core.arithmetic import alpha_grid, choose_negation
from ..errors import UserError
from ..files.metrics import read_rows, write_rows
from ..progress import SILENT
from .evaluate import CPU, accuracies, load, read_vector


def negation(
    encoder_dir,
    head,
    data_dir,
    *,
    encoder,
    mode,
    task,
    seed,
    vector,
    pretrained,
    control,
    control_head,
    control_data_dir,
    settings,
    output,
    device=CPU,
    progress=SILENT,
) -> None:
    """Task negation θ0 − α τ_t (paper, appendix A).

    α is chosen on validation: the lowest target accuracy whose control accuracy keeps
    settings["keep"] of the pretrained model's. Writes `negated_accuracy` (target) and
    `control_accuracy`: validation over the whole grid, test at the chosen α.

    Args:
        pretrained: metrics of the pretrained model's accuracy on the control task.
    """
    files = {task: (head, data_dir), control: (control_head, control_data_dir)}
    theta0, about, splits = load(encoder_dir, files, settings, device)
    alphas = alpha_grid(settings["alphas"])
    before = [
        row.value
        for row in read_rows(pretrained)
        if (row.task, row.split) == (control, "validation")
    ]
    if len(before) != 1:
        raise UserError(f"{pretrained} has no validation accuracy of {control}: make it again.")
    tau, rows = -read_vector(vector, theta0), []

    def record(split, grid):
        found = accuracies(theta0, about, tau, grid, splits[split], settings)
        for i, alpha in enumerate(grid):
            at = {"split": split, "alpha": alpha}
            rows.append({**at, "metric": "negated_accuracy", "value": found[task][i]})
            rows.append({**at, "metric": "control_accuracy", "value": found[control][i]})
        return found[task], found[control]

    target, kept = record("validation", alphas)
    chosen = choose_negation(target, kept, before[0], settings["keep"])
    record("test", [alphas[chosen]])
    shared = {"encoder": encoder, "mode": mode, "seed": seed, "task": task}
    write_rows(output, rows, **shared, other_task=control)
