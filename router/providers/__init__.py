"""Providers: what differs between the APIs that serve tiers, behind one small protocol.

``base`` holds the protocol and its words, ``caching`` what each provider's prompt cache does;
``anthropic``, ``openai``, ``deepseek`` and ``google`` speak one provider's API each, through its
official SDK, which is loaded at the first call.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from router.errors import InputError
from router.providers.base import Provider

# The provider's id in the price book, and where its class is.
_CLASSES = {
    "anthropic": ("router.providers.anthropic", "AnthropicProvider"),
    "openai": ("router.providers.openai", "OpenAIProvider"),
    "deepseek": ("router.providers.deepseek", "DeepSeekProvider"),
    "google": ("router.providers.google", "GoogleProvider"),
}
PROVIDER_IDS = tuple(_CLASSES)


def make_provider(
    id: str, api_key: str | None = None, *, base_url: str | None = None, **options: Any
) -> Provider:
    """The provider of that id in the price book; nothing is loaded or opened before its first call.

    Any other id is taken for a server that speaks OpenAI's chat completions, and needs its
    ``base_url``. ``options`` are the class's own and its SDK's.

    Raises:
        InputError: an id that we do not know, without a ``base_url``.

    >>> make_provider("deepseek")
    DeepSeekProvider(id='deepseek')
    >>> make_provider("groq", base_url="https://api.groq.com/openai/v1")
    OpenAIProvider(id='groq')
    """
    if id not in _CLASSES and base_url is None:
        raise InputError(
            f"expected a provider among {', '.join(PROVIDER_IDS)}, got {id!r}: correct it, or give "
            "the base_url of a server that speaks OpenAI's chat completions."
        )
    module, name = _CLASSES.get(id, _CLASSES["openai"])
    if name == "OpenAIProvider":
        options["id"] = id
    provider: Provider = getattr(import_module(module), name)(api_key, base_url=base_url, **options)
    return provider
