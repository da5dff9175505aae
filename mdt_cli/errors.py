"""What may end a command: the one exception that users see, and a stop by a signal."""


class MdtError(Exception):
    """Wrong input: `message` says what is wrong and who set it, `hint` how to repair it."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message if hint is None else f"{message}\n  {hint}")
        self.message = message
        self.hint = hint


class Stopped(BaseException):
    """A signal ended the work after everything worth keeping was saved; exit code 128 + signal."""

    def __init__(self, signum: int, saved: str = "") -> None:
        super().__init__(f"stopped by signal {signum}")
        self.signum = signum
        self.saved = saved
