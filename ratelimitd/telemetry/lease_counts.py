"""Counts leased tokens. The limiter counts; metrics read."""


class LeaseCounts:
    """Counts since the start of the process, in microtokens.

    What was leased and is neither spent nor held any more has expired.

    Attributes:
        leased: taken in advance.
        spent: of these, what allowed requests were charged.
    """

    def __init__(self) -> None:
        self.leased = 0
        self.spent = 0
