"""The arms of `interference`: what each of them sets, and what runs in it. All share one engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from benchmarks.form import CouldNotMeasure, Plain
from engine.slo import Slo
from engine.vllm.online_first.policy import Mode, Orders, orders_for

SMALL_STEP_TOKENS = 256
"""What stock vLLM is set to beside online requests: with its default of 2,048 one prompt holds them up for a second."""

LONG_PREFILL_TOKENS = 64
"""What one prompt takes of such a step beside the feedback cap, as the documents advise: a document of 1,500 tokens
would have six steps for itself, and an online request that came meanwhile would wait for all of them."""

CEILINGS = ("batch_alone", "batch_alone_256")
STATIC_CAP = 8
TIGHT_ITL_FACTOR = 1.25

Cap = Literal["none", "static", "aimd", "feedback"]
Beside = Literal["batch", "nothing", "embeddings", "transfers"]


@dataclass(frozen=True, slots=True)
class Setting:
    """`beside` is what runs beside the online requests; with anything but `batch` the batches of the chat engine are
    paused."""

    name: str
    orders: Orders
    online: bool = True
    beside: Beside = "batch"
    step_tokens: int = 0
    long_prefill_tokens: int = 0
    is_fcfs: bool = False
    cap: Cap = "none"

    @property
    def bounds_steps(self) -> bool:
        """Whether the engine itself puts online requests first, inside its steps."""
        return self.orders.mode is Mode.ONLINE_FIRST

    def facts(self) -> dict[str, Plain]:
        known: dict[str, Plain] = {
            "mode": "fcfs" if self.is_fcfs else self.orders.mode.name.lower(),
            "step_tokens": self.step_tokens or "the engine's",
            "long_prefill_tokens": self.long_prefill_tokens or "no bound",
            "online": self.online,
            "beside": self.beside,
            "cap": self.cap,
        }
        if self.bounds_steps and self.beside == "batch":
            known |= {key: value for key, value in asdict(self.orders).items() if key not in ("mode", "is_paused")}
        return known


STOCK = Orders(mode=Mode.PRIORITY)
OURS = orders_for(Slo())
"""What an operator gets who promises nothing in particular."""

TIGHT = orders_for(Slo(itl_factor=TIGHT_ITL_FACTOR))

ARMS: Mapping[str, Setting] = {
    one.name: one
    for one in (
        Setting("online_alone", STOCK, beside="nothing"),
        Setting("batch_alone", STOCK, online=False),
        Setting("batch_alone_256", STOCK, online=False, step_tokens=SMALL_STEP_TOKENS),
        Setting("online_first", OURS),
        Setting("online_first_tight", TIGHT),
        Setting("priority", STOCK, step_tokens=SMALL_STEP_TOKENS),
        Setting("fcfs", STOCK, step_tokens=SMALL_STEP_TOKENS, is_fcfs=True),
        Setting(
            "feedback_cap",
            STOCK,
            step_tokens=SMALL_STEP_TOKENS,
            long_prefill_tokens=LONG_PREFILL_TOKENS,
            cap="feedback",
        ),
        Setting("static_cap", STOCK, step_tokens=SMALL_STEP_TOKENS, cap="static"),
        Setting("aimd", STOCK, step_tokens=SMALL_STEP_TOKENS, cap="aimd"),
        Setting("other_engine", OURS, beside="embeddings"),
        Setting("embeddings_alone", OURS, online=False, beside="embeddings"),
        Setting("with_upload", OURS, beside="transfers"),
        Setting("transfers_alone", OURS, online=False, beside="transfers"),
    )
}
"""In this order a round passes through them: those with caps stand together, and so do those without batch work, since
filling and emptying an engine takes its time."""

SHARE_OF: Mapping[str, str] = {"embeddings": "embeddings_alone", "transfers": "transfers_alone"}
"""Where the chat engine's batches are paused: the arm of which the other work's rate is a share."""

OWN = ("step_tokens", "long_prefill_tokens")
NEEDED = ("online_alone", "batch_alone")
QUICK = (
    *NEEDED,
    *("online_first", "online_first_tight", "feedback_cap", "other_engine", "embeddings_alone"),
    *("with_upload", "transfers_alone"),
)


def chosen(names: str, *, quick: bool, changes: Sequence[str] = ()) -> dict[str, Setting]:
    """The arms of a comma-separated list; all, or those of a quick run, for an empty one. What ratios need is always
    among them. `changes` are `NAME:field=value,...`: an arm with other orders, or a new one made from
    `online_first`."""
    arms = dict(ARMS)
    for change in changes:
        name, _, assignments = change.partition(":")
        arms[name] = replace(
            arms.get(name, replace(ARMS["online_first"], name=name)), **_changed(arms, name, assignments)
        )
    wanted = [name.strip() for name in names.split(",") if name.strip()] or list(QUICK if quick else arms)
    if unknown := [name for name in wanted if name not in arms]:
        raise CouldNotMeasure(f"no arm {', '.join(unknown)}; there are {', '.join(arms)}")
    made = [change.partition(":")[0] for change in changes]
    named = {*wanted, *NEEDED, *made}
    named |= {SHARE_OF[arms[name].beside] for name in named if arms[name].beside in SHARE_OF}
    return {name: arm for name, arm in arms.items() if name in named}


def _changed(arms: Mapping[str, Setting], name: str, assignments: str) -> dict[str, Any]:
    """`step_tokens` and `long_prefill_tokens` are the setting's own, the rest are orders."""
    orders = arms.get(name, ARMS["online_first"]).orders
    kinds = {one.name: type(getattr(orders, one.name)) for one in fields(orders)}
    changed: dict[str, Any] = {}
    for assignment in filter(None, assignments.split(",")):
        key, _, value = assignment.partition("=")
        try:
            if key in OWN:
                changed[key] = int(value)
            else:
                orders = replace(orders, **{key: kinds[key](float(value))})
        except (KeyError, ValueError):
            raise CouldNotMeasure(f"--orders {name}: {assignment!r}: one of {', '.join((*OWN, *kinds))}") from None
    return {**changed, "orders": orders}
