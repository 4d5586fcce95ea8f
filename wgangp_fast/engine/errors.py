"""Why a critic is not captured, and the warning before that."""

from __future__ import annotations


class CaptureError(Exception):
    """The critic cannot be captured as one graph; the message says what stopped it.

    Attributes:
        remedy: what to do about that cause; empty until it is known.
    """

    remedy = ""


class NotNow(CaptureError):
    """Something around this call, not the critic, stands in the way of a capture."""


class Unavailable(CaptureError):
    """This torch lacks something private that the engine stands on, or it does something else there."""


class UntestedTorchWarning(UserWarning):
    """The package was not tested with this torch; it runs, and compares the first call of each critic."""


class ManyCapturesWarning(UserWarning):
    """The critic is captured again and again; the message says why, and what happens at last."""
