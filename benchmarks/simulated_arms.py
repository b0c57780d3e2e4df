"""The arms of the simulated interference: those of the real one, under the same names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from benchmarks import baseline_caps, interference_arms
from benchmarks.form import Plain
from benchmarks.interference_figures import Window
from benchmarks.simulated_gateway import Gateway, Governor
from benchmarks.simulated_load import BATCH, LOADS, ONLINE, OnlineRequest, batch_lines
from benchmarks.simulated_run import Run
from engine.simulated.device import Device
from engine.simulated.online_first import OnlineFirst
from engine.simulated.profiles import PROFILES, SimulatedProfile
from engine.vllm.online_first.policy import Orders

SMALL_STEP_TOKENS = {"cpu-135m": 256, "gpu-8b": 2_048}
"""What a stock engine is set to beside online requests: an eighth and a quarter of the preset's own."""

ONLINE_SLOTS = 4
STATIC_SHARE = 8
"""The static cap is this part of an engine's slots: 8 on the CPU, as in `interference`."""


@dataclass(frozen=True, slots=True)
class Setting:
    """`orders`: the engine itself puts online first. `cap` names what bounds the batch from outside."""

    name: str
    orders: Orders | None = None
    cap: str = "none"
    has_online: bool = True
    has_batch: bool = True
    is_small_step: bool = False
    is_fcfs: bool = False

    def facts(self, preset: str) -> dict[str, Plain]:
        facts: dict[str, Plain] = {"preset": preset, "step_tokens": self.profile(preset).step_tokens_max}
        if self.orders is not None:
            facts |= {"itl_factor_max": self.orders.itl_factor_max, "ttft_factor_max": self.orders.ttft_factor_max}
        return facts | {"cap": self.cap}

    def profile(self, preset: str) -> SimulatedProfile:
        profile = PROFILES[preset]
        return replace(profile, step_tokens_max=SMALL_STEP_TOKENS[preset]) if self.is_small_step else profile


ALONE = Setting("online_alone", has_batch=False)
CEILINGS = ("batch_alone", "batch_alone_small")
ARMS: Mapping[str, Setting] = {
    one.name: one
    for one in (
        ALONE,
        Setting("batch_alone", has_online=False),
        Setting("batch_alone_small", has_online=False, is_small_step=True),
        Setting("fcfs", is_fcfs=True, is_small_step=True),
        Setting("priority", is_small_step=True),
        Setting("static_cap", cap="static", is_small_step=True),
        Setting("aimd", cap="aimd", is_small_step=True),
        Setting("feedback_cap", cap="feedback", is_small_step=True),
        *(Setting(name, interference_arms.ARMS[name].orders) for name in ("online_first", "online_first_tight")),
    )
}


@dataclass(frozen=True, slots=True)
class Play:
    """One arm on one preset; a plain value, so that arms can run in processes of their own."""

    setting: Setting
    preset: str
    online: Sequence[OnlineRequest]
    seconds: float
    windows: int

    def run(self) -> list[Window]:
        setting, profile = self.setting, self.setting.profile(self.preset)
        device = Device(profile)
        lines = batch_lines(LOADS[self.preset], profile.block_tokens) if setting.has_batch else iter(())
        gateway = Gateway(device, lines)
        gateway.govern = _governor(setting.cap, gateway)
        run = Run(
            device,
            gateway,
            self.online if setting.has_online else (),
            self.seconds,
            self.windows,
            online_priority=BATCH if setting.is_fcfs else ONLINE,
        )
        if setting.orders is not None:
            device.online_first = OnlineFirst(orders=setting.orders, online_slots=ONLINE_SLOTS, clock=lambda: run.now)
        return run.play()


def _governor(cap: str, gateway: Gateway) -> Governor | None:
    device = gateway.device
    made: Mapping[str, Callable[[], Governor | None]] = {
        "none": lambda: None,
        "static": lambda: baseline_caps.static(device.profile.running_max // STATIC_SHARE),
        "aimd": lambda: baseline_caps.Aimd(lambda: device.cache.held / device.cache.blocks),
        "feedback": lambda: gateway.feedback,
    }
    return made[cap]()
