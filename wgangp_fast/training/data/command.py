"""What the commands of this folder share: their exit codes."""

from __future__ import annotations

from collections.abc import Callable

from ...console import complain
from ...errors import UserError
from .cache import Damaged
from .preparation import Stopped


def run(program: str, work: Callable[[], None]) -> int:
    """Run ``work``; its exit code: 0, 1 for damage, 2 for a mistake of the user, 128 + n after signal n."""
    try:
        work()
    except UserError as error:
        complain(program, error)
        return 1 if isinstance(error, Damaged) else 2
    except Stopped as error:
        complain(program, f"{error}: run the same command again to continue")
        return 128 + error.signal
    except KeyboardInterrupt:
        complain(program, "interrupted")
        return 130
    return 0
