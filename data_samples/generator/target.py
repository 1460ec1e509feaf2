"""What the generator needs of the task that it writes rows for: system message, canonical form,
equal schedules."""

from kit import tasks

_cron = tasks.module("cron")
SYSTEM = _cron.system
canonical, is_valid, same_schedule = _cron.canonical, _cron.is_valid, _cron.same_schedule
