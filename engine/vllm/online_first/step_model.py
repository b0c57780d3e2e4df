"""How long a step takes, fitted while the engine runs: recursive least squares on what steps consist of.

step_ms = base + per_decode * decodes + per_prefill_token * prefill_tokens + per_context_kilotoken * context / 1000

The form is that of the published latency models (HyGen: linear in decodes and prefill tokens; ConServe: resident
context as well); the coefficients are this machine's and this model's.
"""

from __future__ import annotations

from dataclasses import dataclass, field

FEATURES = 4
FORGET = 0.998
"""A step's weight halves every 350 steps: the machine changes (other load, frequency), the model follows."""

PRIOR_VARIANCE = 1e4
STEPS_TRUSTED_MIN = 64
ERROR_TRUSTED_MAX = 0.35
"""Mean relative error up to which predictions are used; noisy machines have a tenth to a fifth."""

STEP_MS_MIN = 0.1
OUTLIER_FACTOR = 4.0
"""A step that took this many times what was predicted met something that is not the engine's: it teaches nothing."""

Vector = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class StepShape:
    """What a step works on: requests that get one token, tokens of prompts, and what all of them attend to."""

    decodes: int
    prefill_tokens: int
    context_tokens: int

    def features(self) -> Vector:
        return (1.0, float(self.decodes), float(self.prefill_tokens), self.context_tokens / 1000)


@dataclass(slots=True)
class StepModel:
    """Coefficients count as zero where the fit makes them negative: more work is not faster."""

    weights: list[float] = field(default_factory=lambda: [0.0] * FEATURES)
    steps: int = 0
    relative_error: float = 1.0
    _covariance: list[list[float]] = field(
        default_factory=lambda: [
            [PRIOR_VARIANCE if row == column else 0.0 for column in range(FEATURES)] for row in range(FEATURES)
        ]
    )

    @property
    def is_trusted(self) -> bool:
        return self.steps >= STEPS_TRUSTED_MIN and self.relative_error <= ERROR_TRUSTED_MAX

    def predict_ms(self, shape: StepShape) -> float:
        return sum(max(0.0, weight) * value for weight, value in zip(self.weights, shape.features(), strict=True))

    @property
    def decode_ms(self) -> float:
        return max(0.0, self.weights[1])

    @property
    def prefill_token_ms(self) -> float:
        return max(0.0, self.weights[2])

    @property
    def context_token_ms(self) -> float:
        return max(0.0, self.weights[3]) / 1000

    def add(self, shape: StepShape, step_ms: float) -> None:
        """Learn from one step. Steps that took absurdly long once the model is good are left out."""
        predicted = self.predict_ms(shape)
        if self.is_trusted and step_ms > OUTLIER_FACTOR * max(predicted, 1e-6):
            return
        if self.steps:
            error = abs(step_ms - predicted) / max(step_ms, 1e-6)
            self.relative_error += 0.03 * (min(error, 1.0) - self.relative_error)
        self._update(shape.features(), step_ms)
        self.steps += 1

    def _update(self, features: Vector, step_ms: float) -> None:
        """Least squares of the relative error: short steps, where online requests are, count like long ones."""
        features, step_ms = _scaled(features, step_ms), 1.0
        covariance = self._covariance
        projected = [sum(row[j] * features[j] for j in range(FEATURES)) for row in covariance]
        scale = FORGET + sum(features[i] * projected[i] for i in range(FEATURES))
        error = step_ms - sum(weight * value for weight, value in zip(self.weights, features, strict=True))
        for i in range(FEATURES):
            self.weights[i] += projected[i] / scale * error
            for j in range(FEATURES):
                covariance[i][j] = (covariance[i][j] - projected[i] * projected[j] / scale) / FORGET
        trace = sum(covariance[i][i] for i in range(FEATURES))
        if trace > FEATURES * PRIOR_VARIANCE:  # what is never seen must not make its variance grow without end
            shrink = FEATURES * PRIOR_VARIANCE / trace
            for row in covariance:
                row[:] = [value * shrink for value in row]


def _scaled(features: Vector, step_ms: float) -> Vector:
    scale = 1.0 / max(step_ms, STEP_MS_MIN)
    return (features[0] * scale, features[1] * scale, features[2] * scale, features[3] * scale)
