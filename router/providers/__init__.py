"""Providers: what differs between the APIs that serve tiers, behind one small protocol.

``base`` holds the protocol and its words, ``caching`` what each provider's prompt cache does; the
other modules speak one provider's API each, through its official SDK.
"""
