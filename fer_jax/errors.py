"""The exceptions that front doors turn into one line and an exit status."""


class FerError(Exception):
    """Ends a command with its message, in one line, and `status`."""

    status = 1


class UserError(FerError):
    """A mistake that its user can mend: says the value, the limit and the fix."""

    status = 2


class NonFiniteLoss(FerError):
    """Training diverged: says at which step, and where the last good checkpoint is."""
