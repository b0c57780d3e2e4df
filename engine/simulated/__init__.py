"""A deterministic engine without weights: for tests, planning, and benchmarks of all that is around an engine."""

from engine.simulated.engine import SimulatedEngine
from engine.simulated.faults import SimulatedFaults
from engine.simulated.profiles import PROFILES, SimulatedProfile, default_models, simulated_model

__all__ = ["PROFILES", "SimulatedEngine", "SimulatedFaults", "SimulatedProfile", "default_models", "simulated_model"]
