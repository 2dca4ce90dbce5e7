"""What the settings of the learning and measuring stages say: of each its slice of the
configuration, as config/settings.py writes it in JSON."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from ..core.schedule import Recipe
from ..errors import UserError, nearest


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What all of them say.

    Attributes:
        modality: of the encoder. limit: split → only so many examples of it, drawn at random.
        precision: of the encoder's passes: auto, bf16 or float32.
    """

    modality: str = "vision"
    limit: Mapping[str, int] | None = None
    precision: str = "float32"

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """Settings from JSON. Raises UserError: a key that is none of theirs, or one is missing."""
        known = [field.name for field in fields(cls)]
        for key in given:
            if key not in known:
                raise UserError(f"The settings have {key!r}{nearest(key, known)}: remove it.")
        try:
            return cls(**given)
        except TypeError as error:
            raise UserError(f"The settings are not complete ({error}): add what lacks.") from None


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings(Settings):
    """linearized: evaluate through f_lin."""

    linearized: bool = False


@dataclass(frozen=True, kw_only=True)
class AdditionSettings(EvaluationSettings):
    """alphas: start, stop and step of the grid. reference_selection: α is the one with the largest
    mean accuracy on the test split itself, as published code for language has it."""

    alphas: Mapping[str, float]
    reference_selection: bool = False


@dataclass(frozen=True, kw_only=True)
class NegationSettings(EvaluationSettings):
    """alphas: as of addition. keep: the share of the pretrained control accuracy to be kept."""

    alphas: Mapping[str, float]
    keep: float


@dataclass(frozen=True, kw_only=True)
class DisentanglementSettings(EvaluationSettings):
    """low, high, points: the grid of both coefficients. samples: random test images of each task.
    reference_scaling: as the published code normalises, see reference_weights."""

    low: float
    high: float
    points: int
    samples: int
    reference_scaling: bool = False


@dataclass(frozen=True, kw_only=True)
class Moves:
    """What a mode moves: patterns of names; linearized: it trains f_lin."""

    train: list[str]
    linearized: bool


@dataclass(frozen=True, kw_only=True)
class TrainingSettings(Settings):
    """mode: what it moves. finetune: the recipe. micro_batch: examples of one forward pass."""

    mode: Moves
    finetune: Recipe
    micro_batch: int | None = None

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        own = {"mode": Moves(**given["mode"]), "finetune": Recipe(**given["finetune"])}
        return super().of({**given, **own})


@dataclass(frozen=True, kw_only=True)
class EfficiencySettings(TrainingSettings):
    """efficiency: `steps` to measure."""

    efficiency: Mapping[str, int]
