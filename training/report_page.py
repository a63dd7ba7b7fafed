"""The page around the sections: one file that asks for nothing and runs nothing but its own."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from training.report_html import Html, tag
from training.report_sections import Section

STYLE, SCRIPT = "report.css", "report_explorer.js"


def page(facts: Mapping[str, Any], sections: Sequence[Section]) -> str:
    """The whole file."""
    style, script = (resource(name) for name in (STYLE, SCRIPT))
    data = facts["data"] or "outcomes"
    title = f"Router {facts['artifact_id']} on {data}"
    head = [
        tag("meta", charset="utf-8"),
        # Nothing is loaded, sent or framed; what runs is what was hashed here.
        tag("meta", http_equiv="Content-Security-Policy", content=policy(style, script)),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("meta", name="robots", content="noindex"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        Html(f"<style>{style}</style>"),
    ]
    contents = tag(
        "nav",
        tag(
            "ol", *(tag("li", tag("a", heading, href=f"#{name}")) for name, heading, _ in sections)
        ),
        aria_label="Sections",
    )
    body = [
        tag("a", "Skip to the verdict", href="#main", class_="skip"),
        tag(
            "header",
            tag("h1", "Is this router worth switching on?"),
            tag(
                "p",
                "Router ",
                tag("code", facts["artifact_id"]),
                " on ",
                tag("strong", data),
            ),
        ),
        contents,
        tag(
            "main",
            *(
                tag(
                    "section",
                    tag("h2", heading, id=f"{name}-heading"),
                    *content,
                    id=name,
                    aria_labelledby=f"{name}-heading",
                )
                for name, heading, content in sections
            ),
            id="main",
        ),
        tag("footer", tag("p", "Made by cps-router evaluate --report.")),
        Html(f"<script>{script}</script>"),
    ]
    whole = tag("html", tag("head", *head), tag("body", *body), lang="en")
    return f"<!DOCTYPE html>\n{whole}\n"


def policy(style: str, script: str) -> str:
    """The content security policy: nothing but this style and this script."""
    return (
        f"default-src 'none'; style-src '{digest(style)}'; script-src '{digest(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def digest(text: str) -> str:
    """As a browser names what it may run."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def resource(name: str) -> str:
    """A file of the package, as it stands."""
    return resources.files("training").joinpath(name).read_text(encoding="utf-8")
