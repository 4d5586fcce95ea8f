"""The errors and warnings that more than one module raises, catches or tells apart."""

from __future__ import annotations


class CaptureError(Exception):
    """The critic cannot be captured as one graph; the message says what stopped it.

    Attributes:
        remedy: what to do about that cause; empty until it is known.
    """

    remedy = ""


class NotNow(CaptureError):
    """Something around this call, not the critic itself, prevents a capture; a later call may succeed."""


class NotBatchable(CaptureError):
    """On several batches together the critic would not compute what it computes on each alone."""


class Unavailable(CaptureError):
    """This torch lacks a private function that the engine needs, or has one that behaves otherwise."""


class UntestedTorchWarning(UserWarning):
    """The package was not tested with this torch; it runs, and compares the first call of each critic."""


class ManyCapturesWarning(UserWarning):
    """The critic is captured again and again; the message says why, and when that ends."""


class UserError(Exception):
    """What was asked for cannot be done; the message is one line that says why and what to do.

    The command line prints it without a traceback and leaves with exit code 2.
    """


class BackendError(RuntimeError):
    """A backend that was asked for by name cannot run here; the message says why and what to do."""


class GraphError(RuntimeError):
    """A step cannot be captured in a CUDA graph, or its graph no longer does what the step would do."""


class StockPathWarning(UserWarning):
    """The critic could not be captured; the stock penalty runs instead (same result, stock speed)."""


class BatchNormWarning(UserWarning):
    """The critic normalises over the batch, which the paper advises against (section 4)."""


class VerificationError(Exception):
    """A plan's numbers differ from those of stock code; the message says which."""
