"""Usage: the tokens of one call, with one meaning for all providers.

Providers count differently: some leave cached tokens out of the input, some leave reasoning out of
the output. ``router/providers`` turns what each reports into this. A usage that is missing or
malformed is None, "unknown": never zeros, which would read as free.
"""

from __future__ import annotations

from dataclasses import dataclass

from router.errors import InputError


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call.

    ``input_tokens`` is the whole prompt, tokens read from and written to a cache included.
    ``output_tokens`` is all that is billed as output, reasoning included. Of the input,
    ``cached_input_tokens`` were read from a cache and ``cache_write_tokens`` written to one; of the
    written, ``cache_write_1h_tokens`` for an hour (a longer life is dearer). ``reasoning_tokens``
    is the part of the output that is not shown.

    Raises:
        InputError: a count that is negative or no whole number, or a part larger than its whole.

    >>> Usage(input_tokens=2500, output_tokens=300, cached_input_tokens=2000).fresh_input_tokens
    500
    """

    input_tokens: int
    output_tokens: int
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    reasoning_tokens: int = 0

    def __post_init__(self) -> None:
        for name in self.__slots__:
            count = getattr(self, name)
            if type(count) is not int or count < 0:
                raise InputError(
                    f"expected {name} to be a whole number of at least 0, got {count!r}: "
                    "correct the usage, or leave it out where it is unknown."
                )
        if (
            self.cached_input_tokens + self.cache_write_tokens > self.input_tokens
            or self.cache_write_1h_tokens > self.cache_write_tokens
            or self.reasoning_tokens > self.output_tokens
        ):
            raise InputError(
                f"expected the parts of a usage within their wholes, got {self}: input_tokens "
                "includes the cached and the written, output_tokens the reasoning."
            )

    @property
    def fresh_input_tokens(self) -> int:
        """Input tokens that were neither read from nor written to a cache."""
        return self.input_tokens - self.cached_input_tokens - self.cache_write_tokens
