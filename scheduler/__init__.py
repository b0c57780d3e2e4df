"""Decides what runs when, and makes it run: durable records in, results out."""

from scheduler.loop import Scheduler
from scheduler.settings import SchedulerSettings

__all__ = ["Scheduler", "SchedulerSettings"]
